"""FedDLR: accuracy against bytes both ways, and the compact model it ends with."""
