// GNU's OpenMP runtime as far as the kernels call it, on std::thread. For ThreadSanitizer: it does not see how the threads
// of libgomp wait for one another, and would report every task as a race. Here it sees all of it, in the same code that
// the compiler makes for libgomp. Iterations are dealt out by relaxed atomics, so that dealing orders nothing.
#include <stdlib.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

struct Team {
    static constexpr int LOOPS = 64;  // dynamic loops in one parallel region
    int size = 1, waiting = 0;
    long generation = 0;
    std::mutex mutex;
    std::condition_variable all_here;
    std::atomic<long> dealt[LOOPS] = {};
};

static thread_local Team *team = nullptr;
static thread_local int number = 0, loop = -1;
static thread_local long first, last, step, chunk;

extern "C" {

int omp_get_num_threads() { return team ? team->size : 1; }
int omp_get_thread_num() { return number; }

void GOMP_barrier() {
    if (!team) return;
    std::unique_lock<std::mutex> lock(team->mutex);
    long mine = team->generation;
    if (++team->waiting == team->size) {
        team->waiting = 0;
        team->generation++;
        team->all_here.notify_all();
    } else {
        team->all_here.wait(lock, [&] { return team->generation != mine; });
    }
}

void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned) {
    if (team) abort();  // the kernels do not nest
    Team mine;
    mine.size = (int)threads;
    auto run = [&](int index) {
        team = &mine, number = index, loop = -1;
        work(data);
        team = nullptr, number = 0;
    };
    std::vector<std::thread> others;
    for (int i = 1; i < mine.size; i++) others.emplace_back(run, i);
    run(0);
    for (std::thread &other : others) other.join();
}

bool GOMP_loop_nonmonotonic_dynamic_next(long *from, long *to) {
    long at = first + team->dealt[loop].fetch_add(chunk * step, std::memory_order_relaxed);
    if (at >= last) return false;
    *from = at;
    *to = at + chunk * step < last ? at + chunk * step : last;
    return true;
}

bool GOMP_loop_nonmonotonic_dynamic_start(long start, long end, long stride, long size, long *from, long *to) {
    if (!team || stride < 1 || ++loop == Team::LOOPS) abort();
    first = start, last = end, step = stride, chunk = size;
    return GOMP_loop_nonmonotonic_dynamic_next(from, to);
}

void GOMP_loop_end() { GOMP_barrier(); }
void GOMP_loop_end_nowait() {}
}
