"""Execute a plan: check it, write the batch, call sbatch or start local workers, and print what to do next.

Only submit_multiple.py and the commands import it; it may import all other folders of src/submission but `remote` and
`doctor`. Begin with `execute.py`.
"""
