"""Many instances over one faulty store on virtual time, each run decided by a seed."""
