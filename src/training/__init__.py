"""A training, from built objects to a stream of rows.

experiment.py tells the story; length.py, batches.py and epoch.py hold the loop, task.py, forward.py and losses.py what
it does with a batch, meters.py what it measures; stopping.py, checkpoint.py, recorder.py, log.py and table.py what
becomes of it; seeds.py, facts.py and placing.py what is settled before it starts.
"""
