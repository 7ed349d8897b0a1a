/* Writes a random Llama checkpoint, so that C and C++ hosts have a model without files of the repository. */
#ifndef TINY_CHECKPOINT_H
#define TINY_CHECKPOINT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tiny_shape {
  int32_t layers, hidden, intermediate, q_heads, kv_heads, head_dim, vocab, max_positions;
} tiny_shape;

#define TINY_SHAPE_DEFAULT { 2, 64, 96, 4, 2, 32, 256, 32768 }

/* config.json, model.safetensors (F32) and a byte-level tokenizer.json in directory, which must exist.
 * Same seed, same files. Returns 0, or -1 with errno set. */
int tiny_checkpoint_write(const char *directory, const tiny_shape *shape, uint64_t seed);

/* A new directory under TMPDIR with the default shape in it; its path in path [512]. Returns 0 or -1. */
int tiny_checkpoint_make(char *path);

/* Removes the three files and the directory. */
void tiny_checkpoint_remove(const char *directory);

#ifdef __cplusplus
}
#endif
#endif
