/* A library that a module needs and that is looked for in vain. */
int skv_absent(void);
int skv_absent(void) { return 1; }
