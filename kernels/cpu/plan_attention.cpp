// Who attends where in one step, found in the page tables: see paged_attention.py.

#include <algorithm>
#include <cstring>
#include <vector>

#include "plan.h"

namespace {

struct Item {
  int64_t sequence, end, tokens;
  std::vector<int32_t> members;  // first token, end, first token, end, ...
};

}  // namespace

// Fills plan.items and plan.members with who attends where, and plan.item_count. Sequences whose pages are the same
// throughout a chunk and who end alike there share an item, up to `most` tokens; more tokens make more items.
// sequences: [count], those that attend here; starts: [B + 1]; lengths: [B].
extern "C" void plan_attention(Plan* plan, const int64_t* sequences, int64_t count, const int64_t* starts,
                               const int64_t* lengths, int64_t most, int32_t* items, int32_t* members) {
  const int64_t chunk = plan->chunk, page_size = plan->page_size;
  int64_t longest = 0, made = 0, member = 0;
  for (int64_t s = 0; s < count; ++s) longest = std::max(longest, lengths[sequences[s]]);
  std::vector<Item> here;
  for (int64_t begin = 0; begin < longest; begin += chunk) {
    here.clear();
    for (int64_t s = 0; s < count; ++s) {
      const int64_t b = sequences[s], end = std::min(lengths[b], begin + chunk);
      if (end <= begin) continue;
      const int64_t before = lengths[b] - (starts[b + 1] - starts[b]);  // its first new token's position
      int64_t from = starts[b] + std::max<int64_t>(0, begin - before), to = starts[b + 1];
      while (to > from && plan->first[to - 1] >= begin + chunk) --to;
      const int64_t page = begin / page_size, bytes = ((end - 1) / page_size - page + 1) * int64_t(sizeof(int32_t));
      const int32_t* own = plan->page_table + b * plan->pages + page;
      for (; from < to; from += most) {
        const int64_t tokens = std::min(most, to - from);
        auto found = std::find_if(here.begin(), here.end(), [&](const Item& item) {
          const int32_t* theirs = plan->page_table + item.sequence * plan->pages + page;
          return item.end == end && item.tokens + tokens <= most && std::memcmp(theirs, own, bytes) == 0;
        });
        if (found == here.end()) found = here.insert(here.end(), Item{b, end, 0, {}});
        found->tokens += tokens;
        found->members.insert(found->members.end(), {int32_t(from), int32_t(from + tokens)});
      }
    }
    for (const Item& item : here) {
      const int64_t own = int64_t(item.members.size() / 2);
      const int64_t row[5] = {begin, item.end, item.sequence, member, member + own};
      std::copy(row, row + 5, items + made++ * 5);
      std::copy(item.members.begin(), item.members.end(), members + member * 2);
      member += own;
    }
  }
  plan->item_count = made;
}
