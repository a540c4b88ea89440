"""MPIPool: every test here starts jobs under each launcher found."""
