package l2

// Kind is one kind of adapter that a build has.
type Kind struct {
	// Check reports what is wrong with an adapter's JSON object, without
	// touching the store.
	Check func(config []byte) error
	// New connects to the store that a checked JSON object names.
	New func(config []byte, env Env) (Adapter, error)
}

// Registry maps the "type" of an adapter's JSON object to its kind. The program
// says which kinds it has, so that importing the storage manager does not
// import every client library.
type Registry map[string]Kind
