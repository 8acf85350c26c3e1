"""The paper's test protocol on a labelled image set: predictions, errors, and the uncertainty of the errors.

`compute` opens the set, loads the nets and chooses the images: all, a sample or a shard. `pipeline` reads them once for
all nets, through the room of the same name a floor below, and keeps what the nets compute of them; `on_ray` does it
on a cluster. `predictions` appends the averaged probabilities to files whose key covers everything they depend on
except the content of the images, and continues after a run was killed. `assemble` reads them back, from one machine or
many shards, into a `tally` per net and one for their mean: four integers per image, from which every figure follows
(`statistics`, `result`); `scoring` says which classes and labels count. The rest shows the result: `tables`,
`terminal`, `report`, `per_class`, `confusion`, with the paper's figures from `paper`. `imagenet_c` and
`corruption_errors` make one figure of many sets. `agreement` compares the probabilities of two nets on the same
`pictures`.
"""
