/* Found where the NVIDIA driver is looked for; nothing calls it. */
int skv_fake_driver(void);
int skv_fake_driver(void) { return 0; }
