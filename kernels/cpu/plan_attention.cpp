// Who attends where in one step, found in the page tables: see paged_attention.py.

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "plan.h"

namespace {

struct Item {
  int64_t sequence, end, tokens;
  std::vector<int32_t> members;  // first token, end, first token, end, ...
};

using Rows = std::vector<std::array<int32_t, 5>>;

// A prompt's tokens in blocks of up to `most`, each an item of all chunks that it sees.
void plan_whole(const Plan& plan, int32_t sequence, int64_t from, int64_t to, int64_t most, Rows& items,
                std::vector<int32_t>& members) {
  for (; from < to; from += most) {
    const int64_t last = std::min(from + most, to) - 1, member = int64_t(members.size()) / 2;
    members.insert(members.end(), {int32_t(from), int32_t(last + 1)});
    items.push_back({int32_t(plan.first[from] / plan.chunk * plan.chunk), int32_t(plan.positions[last] + 1), sequence,
                     int32_t(member), int32_t(member + 1)});
  }
}

// Everyone else, chunk by chunk.
void plan_chunks(const Plan& plan, const std::vector<int64_t>& sequences, const int64_t* starts, const int64_t* lengths,
                 int64_t most, Rows& items, std::vector<int32_t>& members) {
  const int64_t chunk = plan.chunk, page_size = plan.page_size;
  int64_t longest = 0;
  for (const int64_t b : sequences) longest = std::max(longest, lengths[b]);
  std::vector<Item> here;
  for (int64_t begin = 0; begin < longest; begin += chunk) {
    here.clear();
    for (const int64_t b : sequences) {
      const int64_t end = std::min(lengths[b], begin + chunk);
      if (end <= begin) continue;
      const int64_t before = lengths[b] - (starts[b + 1] - starts[b]);  // its first new token's position
      int64_t from = starts[b] + std::max<int64_t>(0, begin - before), to = starts[b + 1];
      while (to > from && plan.first[to - 1] >= begin + chunk) --to;
      const int64_t page = begin / page_size, bytes = ((end - 1) / page_size - page + 1) * int64_t(sizeof(int32_t));
      const int32_t* own = plan.page_table + b * plan.pages + page;
      for (; from < to; from += most) {
        const int64_t tokens = std::min(most, to - from);
        auto found = std::find_if(here.begin(), here.end(), [&](const Item& item) {
          const int32_t* theirs = plan.page_table + item.sequence * plan.pages + page;
          return item.end == end && item.tokens + tokens <= most && std::memcmp(theirs, own, bytes) == 0;
        });
        if (found == here.end()) found = here.insert(here.end(), Item{b, end, 0, {}});
        found->tokens += tokens;
        found->members.insert(found->members.end(), {int32_t(from), int32_t(from + tokens)});
      }
    }
    for (const Item& item : here) {
      const int64_t member = int64_t(members.size()) / 2;
      members.insert(members.end(), item.members.begin(), item.members.end());
      items.push_back({int32_t(begin), int32_t(item.end), int32_t(item.sequence), int32_t(member),
                       int32_t(members.size() / 2)});
    }
  }
}

}  // namespace

// Fills plan.items and plan.members with who attends where, and plan.item_count. First come whole prompts, those whose
// tokens have no part of the scratch, the longest of their items first. Then, chunk by chunk, the other sequences:
// those whose pages are the same throughout a chunk and who end alike there share an item, up to `most` tokens; more
// tokens make more items.
// sequences: [count], those that attend here; starts: [B + 1]; lengths: [B].
extern "C" void plan_attention(Plan* plan, const int64_t* sequences, int64_t count, const int64_t* starts,
                               const int64_t* lengths, int64_t most, int32_t* items, int32_t* members) {
  std::vector<int64_t> others;
  Rows rows;
  std::vector<int32_t> all_members;
  for (int64_t s = 0; s < count; ++s) {
    const int64_t b = sequences[s];
    if (starts[b] < starts[b + 1] && plan->parts[starts[b]] < 0)
      plan_whole(*plan, int32_t(b), starts[b], starts[b + 1], most, rows, all_members);
    else
      others.push_back(b);
  }
  std::stable_sort(rows.begin(), rows.end(), [](const auto& x, const auto& y) { return x[1] - x[0] > y[1] - y[0]; });
  plan_chunks(*plan, others, starts, lengths, most, rows, all_members);
  std::copy(all_members.begin(), all_members.end(), members);
  for (const auto& row : rows) items = std::copy(row.begin(), row.end(), items);
  plan->item_count = int64_t(rows.size());
}
