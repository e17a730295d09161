import importlib.util, sys
from grading import honest
B = honest
MORE = {
 "builtin names": B.Kind(last=(), first=("round = 3\nmax = 5\nlist = [1]",)),
 "builtin names 2": B.Kind(before=("sum = 0\nfor x in [1, 2]:\n    sum = sum + x\nrange = 5, 10",), answer=B.RIGHT.replace("for t in range(seq_len):","for t, _ in enumerate(inputs.unbind(1)):")),
 "from torch import star": B.Kind(first=("from torch import *",)),
 "default float64": B.Kind(first=("torch.set_default_dtype(torch.float64)",)),
 "own import of built": B.Kind(last=(), first=("from rnn2rag.built import recurrent_networks",)),
 "own import of built 2": B.Kind(first=("import rnn2rag.built.recurrent_networks as book\nbook.__name__",)),
 "own use of nn.RNN": B.Kind(before=("torch.nn.RNN(2, 3)(torch.ones(1, 4, 2))[0].shape",)),
 "exit at end": B.Kind(last=("exit()",)),
 "quit before": B.Kind(first=("quit()",)),
 "run script": B.Kind(first=("%%writefile leaky.py\nimport torch\n"+B.RIGHT.replace("leaky_states","mine"), "%run leaky.py"), answer=B.HEAD+"    return mine(inputs, lengths, weight_input, weight_hidden, bias, leak)\n"),
 "chdir": B.Kind(first=("import os, sys\nsys.path.append('..')\nos.chdir('/tmp')\nos.environ['OMP_NUM_THREADS'] = '4'\ntorch.set_num_threads(4)",)),
 "default device": B.Kind(first=("torch.set_default_device('cpu')",)),
 "warnings are errors": B.Kind(first=("import warnings\nwarnings.filterwarnings('error')\nimport logging\nlogging.disable()",), answer=B.inside("import warnings\nwarnings.warn('x')")),
 "widget backend": B.Kind(first=("%matplotlib widget",)),
 "endless recursion": B.Kind(B.HEAD+"    return leaky_states(inputs, lengths, weight_input, weight_hidden, bias, leak)\n"),
 "memory": B.Kind(B.inside("torch.zeros(10**14)")),
 "breakpoint": B.Kind(B.inside("breakpoint()")),
 "pdb": B.Kind(B.inside("import pdb; pdb.set_trace()"), last=("%debug",)),
 "odd characters": B.Kind(B.inside(r"print('\0 \x1b[31mred\x1b[0m \u202e \r\b\x07')"), last=(r"print('\0\ud83d')", "print('\\0 \\x0c')")),
 "inference": B.Kind(first=("torch.set_grad_enabled(False)",)),
 "capture": B.Kind("%%capture\n"+B.RIGHT),
 "async def": B.Kind("async " + B.RIGHT),
 "decorated": B.Kind("@torch.no_grad()\n" + B.RIGHT),
 "jit": B.Kind("import torch.jit\n@torch.jit.script\ndef f(x):\n    return x.tanh()\n" + B.RIGHT.replace("torch.tanh(", "f(")),
 "vmap": B.Kind(B.RIGHT.replace("torch.tanh(", "torch.vmap(torch.tanh)(")),
 "thread to stderr": B.Kind(B.inside("import threading, sys\nth = threading.Thread(target=lambda: print('x', file=sys.stderr)); th.start(); th.join()")),
 "os write": B.Kind(B.inside("import os\nos.write(2, b'low level\\n')\nos.write(1, b'low\\n')")),
 "subprocess stderr": B.Kind(B.inside("import os\nos.system('echo hi >&2')")),
 "shell in answer": B.Kind(B.inside("!echo hi")),
 "display in answer": B.Kind(B.inside("from IPython.display import display\ndisplay(inputs)")),
 "error in thread": B.Kind(B.inside("import threading\nth = threading.Thread(target=lambda: 1/0); th.start(); th.join()")),
 "clear_output": B.Kind(B.inside("from IPython.display import clear_output\nclear_output()")),
 "widgets": B.Kind(first=("import ipywidgets as w\nw.interact(lambda x: x, x=5)\nout = w.Output()\nout",), answer=B.inside("with out:\n    print('in widget')")),
 "exit in answer": B.Kind(B.inside("import sys\nsys.exit(1)")),
 "matplotlib show in answer": B.Kind(B.inside("plt.figure(); plt.plot([1]); plt.show()"), first=("import matplotlib.pyplot as plt",)),
 "pylab": B.Kind(first=("%pylab inline",)),
 "faulthandler": B.Kind(first=("import faulthandler\nfaulthandler.enable()",)),
 "sympy": B.Kind(first=("import sympy, pandas, sklearn, scipy",)),
 "transformers": B.Kind(first=("import transformers\ntransformers.__version__", "import datasets\ndatasets.Dataset.from_dict({'a': [1]})")),
 "train": B.Kind(last=("m = torch.nn.Linear(2, 1)\no = torch.optim.Adam(m.parameters())\nfor _ in range(3):\n    m(torch.ones(4, 2)).sum().backward(); o.step(); o.zero_grad()",)),
 "big tensor": B.Kind(last=("x = torch.zeros(200_000_000); x.sum()",)),
 "mp": B.Kind(last=("import multiprocessing as mp\nwith mp.Pool(2) as p:\n    print(p.map(abs, [1, -2]))",)),
 "torch mp": B.Kind(last=("import torch.multiprocessing as tm\nq = tm.get_context('fork').Queue()\nq.put(torch.ones(3)); q.get()",)),
 "getpass": B.Kind(last=("import getpass, os, socket, platform\ngetpass.getuser(), os.path.expanduser('~'), socket.gethostname(), os.cpu_count(), platform.uname()",)),
}
if True:
    honest.KINDS = MORE
    honest.planted = lambda root: {}
text = open("/work/main/tests/test_equality.py").read().replace("COUNT = 48", f"COUNT = {len(MORE)}")
text = text[:text.index("def test_the_class_shows")]
text = text.replace('EARNS = ("class", "recursion", "einsum and Greek names", "a tensor made before")', 'EARNS = ("chdir", "jit", "vmap", "capture")')
exec(compile(text, "test_equality_scratch", "exec"))
