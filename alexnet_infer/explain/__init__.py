"""`alexnet-infer explain`: one page on how a net comes to its answer for one photo.

`measure` computes everything that the page shows, and `page` writes it.
"""
