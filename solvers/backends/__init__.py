"""Large sparse programs: well-kept native solvers find the active set, a sparse KKT system makes the answer exact."""
