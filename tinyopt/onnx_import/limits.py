"""What a model may be at most: the limits of the importer, in one place.

Each is far above what networks for Arm CPUs need, and low enough that a file of a few bytes cannot ask for more time
or memory than a compilation of an honest model does. SECURITY.md lists them for users.
"""

from __future__ import annotations

LARGEST_FILE_BYTES = 2**31 - 1  # protobuf's own limit
LARGEST_WEIGHT_BYTES = 2**31  # of all weights together, those in other files included
LARGEST_TENSOR_ELEMENTS = 2**31
LARGEST_TENSOR_BYTES = 2**31 - 1  # kernels count elements, and the arena its bytes, in 32 bits
LARGEST_RANK = 16
LARGEST_LIVE_BYTES = 2**29  # of the tensors that are needed at one time while the model runs
LARGEST_ACTIVATION_BYTES = 2**31  # of all tensors that nodes give: the self-test's reference holds them at once
MOST_MULTIPLICATIONS = 2**37  # for one run; the reference does some 10^10 in a second
MOST_WINDOW_READS = 2**33  # by pooling, for one run
MOST_NODES = 20_000  # after functions are expanded, those in subgraphs included
MOST_TENSORS = 100_000  # initializers, and types stated for inner tensors
MOST_BOUNDARY_TENSORS = 1_024  # inputs, and outputs
MOST_CONNECTIONS = 200_000  # inputs and outputs of all nodes together
MOST_NUMBERS_PER_ATTRIBUTE = 1_000_000
MOST_ATTRIBUTES = 256  # of one node
DEEPEST_NESTING = 100  # messages inside messages, and functions that call functions
LONGEST_NAME_BYTES = 4_096
OLDEST_OPSET, NEWEST_OPSET = 1, 28
OLDEST_IR_VERSION, NEWEST_IR_VERSION = 3, 14

LARGEST_TABLE_ELEMENTS = 2**22  # coefficients or places that are made of a node's attributes: DFT, Resize, Col2Im
FREE_FOLDED_BYTES = 64 * 2**20
FOLDED_BYTES_PER_WEIGHT_BYTE = 8  # weights that pass through a few nodes: Cast, Sub, Mul, Transpose, Reshape
MOST_EXPANDED_BYTES = 256 * 2**20  # how much larger a model may become when its functions are expanded
LARGEST_WINDOW = 2**16  # of strides, dilations, pads and kernels along one axis
