"""A net as a web page: a folder of static files that classifies photos in the browser.

`page/` holds the files as they are written: plain ES modules with their types in JSDoc, no build step. What depends on
the net is in `net.json`, which `site.py` makes of its manifest. onnxruntime-web runs the graph of `graph/web.py`.
"""
