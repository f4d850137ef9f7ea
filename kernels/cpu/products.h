// Products with a weight, for a team of threads that shares out rows and columns itself: what is in
// bfloat16_matmul.cpp, int8_matmul.cpp and int4_matmul.cpp, for rows of bfloat16.
//
// First every row is laid out, by whoever comes, and when all of them are, columns are multiplied, by whoever comes.
#pragma once

#include "tiles.h"

#if HAS_TILES

// A weight in one form. See `Product` in decoder_layers.py.
struct Product {
  int64_t kind;
  const void* packed;
  const float* scales;    // int8
  const int32_t* sums;    // int8
  const bfloat16* bias;   // null: none
  int64_t outputs, inputs;
};

// Rows as a form multiplies them. Room for any of the forms: see `laid_bytes`, `shared_bytes`.
struct LaidRows {
  void* rows;
  void* shared;  // what numbers of a row share
  int64_t count;
};

// laid: how many rows are laid out, some of them nobody's. lay_out: x is the row, anything for one that is nobody's.
// column: writes [rows, outputs], what is this column's of it; tiles have min(16, laid) rows.
#define PRODUCT_IN(FORM)                                                                       \
  int64_t FORM##_columns(const Product& weight);                                               \
  int64_t FORM##_laid(int64_t count);                                                          \
  void FORM##_lay_out(const Product& weight, const bfloat16* x, int64_t row, const LaidRows& rows); \
  void FORM##_column(const Product& weight, int64_t column, const LaidRows& rows, bfloat16* out);

PRODUCT_IN(bfloat16)
PRODUCT_IN(int8)
PRODUCT_IN(int4)
#undef PRODUCT_IN
#endif
