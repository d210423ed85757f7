WRITES = ()
