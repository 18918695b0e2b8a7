// The gofer process: the only one that opens a container's files.
#pragma once

namespace sbx::gofer {

// argv[1] is the number of the memfd made by write_gofer_boot (gofer/boot.h). Gives up every capability but the few
// that file work needs, loads its own seccomp filter, serves requests until the request socket reports EOF.
// Returns the process's exit status. Does not change uid: the runtime starts it with the ids (and the user
// namespace) it shall have.
int gofer_main(int argc, char** argv);

}  // namespace sbx::gofer
