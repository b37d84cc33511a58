// Functions without a body, which are linked from the runtime, need a file of
// assembly beside them.
