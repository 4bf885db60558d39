// A kernel as a shared library: -DKERNEL="file" -DENTRY=name. `run` returns what went wrong, or null.
#include KERNEL

#include <utility>

// The kernel with its arguments, each given by its address, as the driver takes them.
template <typename... Parameters>
void call_with(void (*kernel)(Parameters...), void** arguments) {
  [&]<std::size_t... kAt>(std::index_sequence<kAt...>) {
    kernel(*static_cast<Parameters*>(arguments[kAt])...);
  }(std::index_sequence_for<Parameters...>{});
}
void call_kernel(void** arguments) { call_with(&ENTRY, arguments); }

extern "C" const char* run(u32 x, u32 y, u32 z, u32 threads, u32 cluster, void** arguments, u32 seed) {
  machine.dice.seed(seed);
  machine.fault = nullptr;
  machine.bulk.clear();
  machine.grid = {x, y, z};
  block_arguments = arguments;
  for (u32 i = 0; i < x * y * z; i += cluster) {  // a cluster's blocks are neighbours along x
    for (u32 rank = 0; rank < cluster; ++rank) machine.block[rank % kBlocksMax] = {(i + rank) % x, i / x % y, i / x / y};
    if (const char* fault = run_cluster(threads, cluster)) return fault;
  }
  return nullptr;
}
