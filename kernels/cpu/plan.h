// What the layers of one step share: who attends where. See paged_attention.py.
#pragma once

#include <cstdint>

struct Plan {
  const int64_t* slots;       // [T]
  const int64_t* positions;   // [T]
  const int32_t* page_table;  // [B, P]
  const int32_t* items;       // [I, 5]: first position, end, sequence, first member, end
  const int32_t* members;     // [M, 2]: first token, end
  const int64_t* rows;        // [A]: the tokens whose parts are merged at the end
  const int64_t* first;       // [T]: the first position that a token sees
  const int64_t* parts;       // [T]: which part of the scratch is the token's first; -1: it is attended whole
  void* scratch;              // [parts in all, heads, padded head_dim + a vector's width]
  int64_t tokens, pages, item_count, row_count;
  int64_t heads, kv_heads, head_dim, page_size, chunk;
  int64_t threads;
  int64_t tiles;  // whether products may be computed in tile registers
};
