// Package l2test holds what every L2 adapter must do as tests that each adapter
// runs against its own store. [Run] is the suite; [Rig] drives one adapter on
// the real or on the virtual clock without sleeping.
package l2test
