"""Each module measures one promise of speed as a ratio within one run: `measure()` gives (what, figure, most)."""
