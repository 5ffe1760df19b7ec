"""Language models over slow links: loss, bytes both ways, and seconds on links."""
