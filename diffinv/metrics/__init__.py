"""How good is a restoration? Functions of pictures and samples; `table` lists the marks that studies take."""
