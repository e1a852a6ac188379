"""How a network learns: loss, schedule, optimizer, and the loop that joins them."""
