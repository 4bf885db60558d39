// A kernel as a shared library: -DKERNEL="file" -DENTRY=name. `run` returns what went wrong, or null.
#include KERNEL

#include <sys/mman.h>
#include <sys/wait.h>
#include <utility>

// The kernel with its arguments, each given by its address, as the driver takes them.
template <typename... Parameters>
void call_with(void (*kernel)(Parameters...), void** arguments) {
  [&]<std::size_t... kAt>(std::index_sequence<kAt...>) {
    kernel(*static_cast<Parameters*>(arguments[kAt])...);
  }(std::index_sequence_for<Parameters...>{});
}
void call_kernel(void** arguments) { call_with(&ENTRY, arguments); }

// All blocks of a grid at once, each in a process of its own: memory that they write must be shared between processes.
extern "C" const char* run_together(u32 x, u32 y, u32 z, u32 threads, u32, void** arguments, u32 seed) {
  grid_board = static_cast<Board*>(mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  *grid_board = Board{};
  machine.grid = {x, y, z};
  block_arguments = arguments;
  std::vector<pid_t> blocks;
  for (u32 i = 0; i < x * y * z; ++i) {
    blocks.push_back(fork());
    if (blocks.back()) continue;
    machine.dice.seed(seed + i);
    machine.fault = nullptr;
    machine.block[0] = {i % x, i / x % y, i / x / y};
    if (const char* fault = run_cluster(threads, 1); fault && !grid_board->failed) {
      grid_board->failed = 1;
      snprintf(grid_board->said, sizeof grid_board->said, "block %u: %s", i, fault);
    }
    _exit(0);
  }
  for (pid_t block : blocks) {
    int status = -1;
    if ((block < 0 || waitpid(block, &status, 0) != block || status) && !grid_board->said[0])
      snprintf(grid_board->said, sizeof grid_board->said, "a block crashed: status %d", status);
  }
  static char said[sizeof grid_board->said];
  memcpy(said, grid_board->said, sizeof said);
  munmap(grid_board, sizeof(Board));
  grid_board = nullptr;
  return said[0] ? said : nullptr;
}

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
