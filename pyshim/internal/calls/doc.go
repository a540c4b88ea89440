// Package calls is what the two transports of the Python binding share: the table of handles, and one function per call on
// pools and their ports. pyshim/capi puts C types around them, pyshim/fdengine a record in a socket; schwimmbad.h documents
// what each does. It holds no policy.
package calls
