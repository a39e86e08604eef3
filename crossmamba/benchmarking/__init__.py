"""What `crossmamba bench` runs: timings, floors, memory and errors of the operators, as rows of one table."""
