/* The allocator: whatever pieces a request is served from, nobody else has them. */

/* From one byte that is looked at to the next: all of a small request's, and of a large one's those at its ends. */
static int64_t next_byte(int64_t j, int64_t bytes) {
  return bytes > 4 << 20 && j == 8191 ? bytes - 8192 : j + 1;
}

/* Sizes around lines, pages, and the parts of a region at which pieces are cut or refused. */
static int64_t request(caller *c) {
  if (!draw(c, 100)) return ((int64_t)(draw(c, 3) ? 5 : 33) << 20) + draw(c, 9000); /* of regions that are not shared */
  const int64_t most = draw(c, 64) ? 1 << 14 : 1 << 20;
  const int64_t size = draw(c, 3) ? PICK(c, 0, 64, 4096, 8192, 65536 / 8, 65536) : draw(c, most);
  return size + (size > 128 ? draw(c, 3) * 64 - 64 : 0) + draw(c, 3);
}

static void run_memory(caller *c) {
  enum { HELD = 12 };
  unsigned char *held[HELD] = {0}, mark[HELD];
  int64_t bytes[HELD] = {0}, all = 0;
  for (int64_t step = 0; step < c->now.n + HELD; step++) {
    const int64_t i = step < c->now.n ? draw(c, HELD) : step - c->now.n;
    if (held[i]) {
      for (int64_t j = 0; j < bytes[i]; j = next_byte(j, bytes[i]))
        if (held[i][j] != mark[i]) fail(c, "another's owner changed byte %lld of %lld", (long long)j, (long long)bytes[i]);
      vox_free(held[i]);
      held[i] = NULL;
      all -= bytes[i];
    } else if (step < c->now.n) {
      bytes[i] = request(c);
      held[i] = vox_alloc(bytes[i]);
      if (!held[i]) fail(c, "%lld bytes were refused", (long long)bytes[i]);
      if ((uintptr_t)held[i] % 64) fail(c, "%p is not aligned", (void *)held[i]);
      mark[i] = (unsigned char)draw(c, 256);
      for (int64_t j = 0; j < bytes[i]; j = next_byte(j, bytes[i])) held[i][j] = mark[i];
      all += bytes[i];
      const int64_t live = vox_live_bytes();
      if (live < all) fail(c, "%lld bytes are said to be handed out of %lld", (long long)live, (long long)all);
    }
    if (draw(c, 200) == 0) vox_release_memory();
  }
}
