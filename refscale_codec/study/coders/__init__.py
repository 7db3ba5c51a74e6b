"""The coders that are compared, each a `protocol.Coder`: still pictures, video, refscale; `baselines` lists them."""
