"use strict";
// Shortcuts in the library's views, which are laid out and painted whenever the reader does something. They skip work
// whose result is the same; without them the charts look alike.
(gridiron => {
  // view: of a figure that is shown
  function shorten(figure, view) {
    keepAxes(figure, view);
    for (const renderer of figure.renderers) dropGlyphs(view.renderer_views.get(renderer));
    const size = view.base_font_size;
    Object.defineProperty(view, "base_font_size", {value: size});  // else read from the style by each text
    ignoreStyles(view);
  }

  // Let axes grow with their labels, but not shrink: each change of their size lays out the whole figure
  function keepAxes(figure, view) {
    for (const axis of [...figure.left, ...figure.below]) {
      const axisView = view.renderer_views.get(axis), size = axisView.get_size.bind(axisView);
      let most = 0;
      axisView.get_size = () => {
        const {width, height} = size();
        most = Math.max(most, height);
        return {width, height: most};
      };
    }
  }

  // Glyphs of a selection and the like are never shown: selections are drawn on the overlay. All runs are painted, also
  // those out of the zoomed view, which the frame clips
  function dropGlyphs(renderer) {
    const unused = {set_data: async () => {}, set_visuals: () => {}, map_data: () => {}};
    for (const name of ["decimated_glyph", "selection_glyph", "nonselection_glyph", "muted_glyph"])
      Object.assign(renderer[name], unused);
    renderer.glyph._mask_data = null;
  }

  // The page sets no CSS variables of the library, which looks for them at each stroke
  function ignoreStyles(view) {
    for (let visual of view.visuals) {
      while (visual && !Object.hasOwn(visual, "_get_css_value")) visual = Object.getPrototypeOf(visual);
      if (visual) visual._get_css_value = () => "";
    }
  }

  gridiron.library = {shorten};
})(window.gridiron);
