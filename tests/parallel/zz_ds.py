import traceback,time
from tests.parallel.strategies.test_deepspeed import *
C={"compile1":(Deepspeed(zero=1),{"compile":True}),"compile3":(Deepspeed(zero=3),{"compile":True}),"float8 3":(Deepspeed(zero=3),{"float8":{}}),"float8 1":(Deepspeed(zero=1),{"float8":{}})}
def both(rank, world):
    out={}
    for n,(c,t) in C.items():
        a=time.time()
        try: out[n]=trained(rank,world,c,t)
        except Exception: out[n]=traceback.format_exc()[-1500:]
        print(n,time.time()-a,flush=True)
    return out
if __name__ == "__main__":
    f = on_ranks(2, both, timeout_s=450.)
    for n,(c,t) in C.items():
        if isinstance(f[0][n],str): print(n,f[0][n]); continue
        try: assert_same([o[n] for o in f], {} if "compile" in n else t); print(n,"ok")
        except AssertionError as e: print(n, str(e)[-800:])
