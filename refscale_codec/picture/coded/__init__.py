"""What samples become when a picture is coded: levels of a range, groups of bands, and what is kept exactly."""
