"""Train a small classifier by natural gradient: a script to copy."""

import numpy as np
import pytensor.tensor as pt

import symng
from symng.models import categorical_cross_entropy_with_logits, mlp

# Data: two classes on a chessboard of four squares, one-hot.
rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (1000, 2))
T = np.eye(2)[(X[:, 0] * X[:, 1] > 0).astype(int)]

# Model: any PyTensor graph with a loss, an output and parameters.
x, t = pt.matrix("x"), pt.matrix("t")
network = mlp(x, [2, 20, 2], output="softmax", seed=0)
loss = categorical_cross_entropy_with_logits(network.preactivation, t).mean()
objective = symng.Objective(
    loss, output=network.output, params=network.params, inputs=[x], targets=[t]
)

# Training.
optimizer = symng.NaturalGradient(damping=symng.LevenbergMarquardt(initial=0.1))
result = symng.minimize(objective, optimizer, data=(X, T), batch_size=500, max_steps=60)
print("loss:", *result.history["loss"][[0, -1]].round(3))
