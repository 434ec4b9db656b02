import torch, time, cProfile, pstats, statistics
from sparse_rep.kernels import ops, pursuit_triton as pt, topk
from torch.nn.functional import normalize
torch.manual_seed(0)
BF=torch.bfloat16
def host(f, reps=100):
    for _ in range(3): f()
    torch.cuda.synchronize(); t=time.perf_counter()
    for _ in range(reps): f()
    h=(time.perf_counter()-t)/reps; torch.cuda.synchronize(); w=(time.perf_counter()-t)/reps
    return h*1e6,w*1e6
def graph_us(f, reps=30):
    s=torch.cuda.Stream(); 
    with torch.cuda.stream(s):
        f(); f()
    torch.cuda.synchronize(); g=torch.cuda.CUDAGraph()
    with torch.cuda.graph(g): 
        for _ in range(5): f()
    g.replay(); torch.cuda.synchronize()
    a,b=torch.cuda.Event(enable_timing=True),torch.cuda.Event(enable_timing=True); a.record()
    for _ in range(reps): g.replay()
    b.record(); torch.cuda.synchronize(); return a.elapsed_time(b)/reps/5*1e3
for n,d,m,k in ((1,768,24576,32),(16,768,24576,32),(128,768,24576,32),(16,2304,65536,64),(128,2304,65536,64),(512,2304,65536,64),(128,768,3072,32),(1024,768,3072,32)):
    x=torch.randn(n,d,device='cuda',dtype=BF); W=torch.randn(m,d,device='cuda',dtype=BF); b=torch.zeros(m,device='cuda'); bb=b.to(BF)
    f=lambda: ops.topk_encode(x,W,b,k,check=False); g=lambda: torch.topk(torch.addmm(bb,x,W.T),k)
    try: gu='%.0f'%graph_us(f)
    except Exception as e: gu=repr(e)[:80]
    print(n,d,m,k,'ours host/wall us %.0f %.0f'%host(f),'graph',gu,'| torch %.0f %.0f'%host(g),'graph %.0f'%graph_us(g), flush=True)
x=torch.randn(16,768,device='cuda',dtype=BF); W=torch.randn(24576,768,device='cuda',dtype=BF); b=torch.zeros(24576,device='cuda')
pr=cProfile.Profile(); pr.enable()
for _ in range(200): ops.topk_encode(x,W,b,32,check=False)
pr.disable(); pstats.Stats(pr).sort_stats('cumtime').print_stats(28)
n=8192
for d,m,k in ((2304,16384,64),(768,24576,32),(768,6144,32)):
    x=torch.randn(n,d,device='cuda'); A=normalize(torch.randn(m,d,device='cuda'),dim=1); G=ops.gram_matrix(A)
    for w,r in ((4,128),(8,128),(8,None),(16,128)):
        f=lambda: pt.gram_pursuit(x,A,G,k,0.0,True,w,r)
        f(); torch.cuda.synchronize(); t=time.perf_counter(); f(); f(); torch.cuda.synchronize(); print('fp32',d,m,k,w,r,'%.2f ms'%((time.perf_counter()-t)*500), flush=True)
