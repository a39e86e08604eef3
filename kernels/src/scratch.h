// Scratch memory that a thread keeps from call to call: fresh memory costs a page fault per 4 KiB, which would dominate.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace crossmamba {

// One growing block of memory, 64-byte aligned; what it holds is lost at the next `take`.
class Scratch {
  public:
    ~Scratch();
    // At least that many bytes (never NULL for a size of 0), or NULL if there is no memory.
    float *take(size_t bytes);

  private:
    void *block_ = nullptr;
    size_t size_ = 0;
};

// Hands out pieces of a block in turn. With a NULL block it only counts, so the same code sizes and cuts.
class Cutter {
  public:
    explicit Cutter(float *block) : next_(block) {}
    float *floats(int64_t count) {
        size_t bytes = ((size_t)count * 4 + 63) / 64 * 64;
        float *piece = next_;
        if (next_) next_ += bytes / 4;
        used_ += bytes;
        return piece;
    }
    size_t used() const { return used_; }

  private:
    float *next_;
    size_t used_ = 0;
};

Scratch &thread_scratch();  // one per thread, for the work inside a parallel region
Scratch &call_scratch();    // one per calling thread, for what the threads of one call share

}  // namespace crossmamba
