// Where each part of a paged logits launch begins: int32 [parts + 1, 2], a request and a unit of 128 keys in it.
//
// The units of all requests, at least one each so that every row is cleaned, stand in one line; part i begins at
// total x i / parts of them.
#include "ptx.cuh"
#include "scan.cuh"

constexpr u32 kKeys = 128;

DEVICE u32 units_of(i32 length) { return larger(ceil_div(u32(larger(length, 0)), kKeys), 1u); }

// Every thread writes the parts that begin in its requests.
extern "C" __global__ void __launch_bounds__(kThreads) logits_plan(const i32* gLengths, i32* gPlan, u32 requests, u32 parts) {
  __shared__ u32 sWarp[32];
  wait_for_previous_kernel();
  let_next_kernel_start();
  const u32 each = ceil_div(requests, kThreads), first = smaller(threadIdx.x * each, requests), last = smaller(first + each, requests);
  u32 mine = 0, total;
  for (u32 request = first; request < last; ++request) mine += units_of(gLengths[request]);
  u32 begin = scan(mine, sWarp, total);
  u32 part = u32((u64(begin) * parts + total - 1) / total);  // the first that begins here or later
  for (u32 request = first; request < last; ++request) {
    const u32 end = begin + units_of(gLengths[request]);
    for (; part < parts; ++part) {
      const u32 at = u32(u64(total) * part / parts);
      if (at >= end) break;
      gPlan[2 * part] = request, gPlan[2 * part + 1] = at - begin;
    }
    begin = end;
  }
  if (threadIdx.x == 0) gPlan[2 * parts] = requests, gPlan[2 * parts + 1] = 0;
}
