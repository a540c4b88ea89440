// Package watch tells whether a process can have written to a range of its own memory since a moment: the kernel notes which pages were
// written, so that nothing is read.
//
// The pages are write-protected for the kernel's own book-keeping: the first write to each takes a fault that clears a mark and goes
// on, and PAGEMAP_SCAN finds pages without it (userfaultfd with UFFD_FEATURE_WP_ASYNC, Linux 6.7; the kernel's
// Documentation/admin-guide/mm/pagemap.rst and userfaultfd.rst). It needs no privilege, but containers may forbid it.
//
// What writes through page tables leaves a mark: this process, the kernel on its behalf (read, recv, direct I/O), a debugger, another
// process by process_vm_writev, devices that share its page tables. Two things do not, and with either of them nothing is called unwritten:
//
//   - memory that others can reach through mappings of their own: shared memory, files, devices. Ranges must be private and anonymous
//     ([Watcher.Arm]), page by page and each time ([Range.Unwritten]).
//   - pages that a device or another part of the kernel holds pinned, and writes behind the page tables: RDMA, GPUs, io_uring's
//     registered buffers, XPMEM. Each of them goes through a descriptor that stays open, so that one which is not known to be
//     harmless is enough ([Harmless]).
package watch
