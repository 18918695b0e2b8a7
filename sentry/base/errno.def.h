// One row per Linux errno of x86-64 (asm-generic/errno.h): enumerator, number, name, text.
#pragma once
#define SBX_ERRNOS(X) \
  X(kPerm, 1, "EPERM", "Operation not permitted") \
  X(kNoent, 2, "ENOENT", "No such file or directory") \
  X(kSrch, 3, "ESRCH", "No such process") \
  X(kIntr, 4, "EINTR", "Interrupted system call") \
  X(kIo, 5, "EIO", "Input/output error") \
  X(kNxio, 6, "ENXIO", "No such device or address") \
  X(kTooBig, 7, "E2BIG", "Argument list too long") \
  X(kNoexec, 8, "ENOEXEC", "Exec format error") \
  X(kBadf, 9, "EBADF", "Bad file descriptor") \
  X(kChild, 10, "ECHILD", "No child processes") \
  X(kAgain, 11, "EAGAIN", "Resource temporarily unavailable") \
  X(kNomem, 12, "ENOMEM", "Cannot allocate memory") \
  X(kAcces, 13, "EACCES", "Permission denied") \
  X(kFault, 14, "EFAULT", "Bad address") \
  X(kNotblk, 15, "ENOTBLK", "Block device required") \
  X(kBusy, 16, "EBUSY", "Device or resource busy") \
  X(kExist, 17, "EEXIST", "File exists") \
  X(kXdev, 18, "EXDEV", "Invalid cross-device link") \
  X(kNodev, 19, "ENODEV", "No such device") \
  X(kNotdir, 20, "ENOTDIR", "Not a directory") \
  X(kIsdir, 21, "EISDIR", "Is a directory") \
  X(kInval, 22, "EINVAL", "Invalid argument") \
  X(kNfile, 23, "ENFILE", "Too many open files in system") \
  X(kMfile, 24, "EMFILE", "Too many open files") \
  X(kNotty, 25, "ENOTTY", "Inappropriate ioctl for device") \
  X(kTxtbsy, 26, "ETXTBSY", "Text file busy") \
  X(kFbig, 27, "EFBIG", "File too large") \
  X(kNospc, 28, "ENOSPC", "No space left on device") \
  X(kSpipe, 29, "ESPIPE", "Illegal seek") \
  X(kRofs, 30, "EROFS", "Read-only file system") \
  X(kMlink, 31, "EMLINK", "Too many links") \
  X(kPipe, 32, "EPIPE", "Broken pipe") \
  X(kDom, 33, "EDOM", "Numerical argument out of domain") \
  X(kRange, 34, "ERANGE", "Numerical result out of range") \
  X(kDeadlk, 35, "EDEADLK", "Resource deadlock avoided") \
  X(kNametoolong, 36, "ENAMETOOLONG", "File name too long") \
  X(kNolck, 37, "ENOLCK", "No locks available") \
  X(kNosys, 38, "ENOSYS", "Function not implemented") \
  X(kNotempty, 39, "ENOTEMPTY", "Directory not empty") \
  X(kLoop, 40, "ELOOP", "Too many levels of symbolic links") \
  X(kNomsg, 42, "ENOMSG", "No message of desired type") \
  X(kIdrm, 43, "EIDRM", "Identifier removed") \
  X(kChrng, 44, "ECHRNG", "Channel number out of range") \
  X(kL2nsync, 45, "EL2NSYNC", "Level 2 not synchronized") \
  X(kL3hlt, 46, "EL3HLT", "Level 3 halted") \
  X(kL3rst, 47, "EL3RST", "Level 3 reset") \
  X(kLnrng, 48, "ELNRNG", "Link number out of range") \
  X(kUnatch, 49, "EUNATCH", "Protocol driver not attached") \
  X(kNocsi, 50, "ENOCSI", "No CSI structure available") \
  X(kL2hlt, 51, "EL2HLT", "Level 2 halted") \
  X(kBade, 52, "EBADE", "Invalid exchange") \
  X(kBadr, 53, "EBADR", "Invalid request descriptor") \
  X(kXfull, 54, "EXFULL", "Exchange full") \
  X(kNoano, 55, "ENOANO", "No anode") \
  X(kBadrqc, 56, "EBADRQC", "Invalid request code") \
  X(kBadslt, 57, "EBADSLT", "Invalid slot") \
  X(kBfont, 59, "EBFONT", "Bad font file format") \
  X(kNostr, 60, "ENOSTR", "Device not a stream") \
  X(kNodata, 61, "ENODATA", "No data available") \
  X(kTime, 62, "ETIME", "Timer expired") \
  X(kNosr, 63, "ENOSR", "Out of streams resources") \
  X(kNonet, 64, "ENONET", "Machine is not on the network") \
  X(kNopkg, 65, "ENOPKG", "Package not installed") \
  X(kRemote, 66, "EREMOTE", "Object is remote") \
  X(kNolink, 67, "ENOLINK", "Link has been severed") \
  X(kAdv, 68, "EADV", "Advertise error") \
  X(kSrmnt, 69, "ESRMNT", "Srmount error") \
  X(kComm, 70, "ECOMM", "Communication error on send") \
  X(kProto, 71, "EPROTO", "Protocol error") \
  X(kMultihop, 72, "EMULTIHOP", "Multihop attempted") \
  X(kDotdot, 73, "EDOTDOT", "RFS specific error") \
  X(kBadmsg, 74, "EBADMSG", "Bad message") \
  X(kOverflow, 75, "EOVERFLOW", "Value too large for defined data type") \
  X(kNotuniq, 76, "ENOTUNIQ", "Name not unique on network") \
  X(kBadfd, 77, "EBADFD", "File descriptor in bad state") \
  X(kRemchg, 78, "EREMCHG", "Remote address changed") \
  X(kLibacc, 79, "ELIBACC", "Can not access a needed shared library") \
  X(kLibbad, 80, "ELIBBAD", "Accessing a corrupted shared library") \
  X(kLibscn, 81, "ELIBSCN", ".lib section in a.out corrupted") \
  X(kLibmax, 82, "ELIBMAX", "Attempting to link in too many shared libraries") \
  X(kLibexec, 83, "ELIBEXEC", "Cannot exec a shared library directly") \
  X(kIlseq, 84, "EILSEQ", "Invalid or incomplete multibyte or wide character") \
  X(kRestart, 85, "ERESTART", "Interrupted system call should be restarted") \
  X(kStrpipe, 86, "ESTRPIPE", "Streams pipe error") \
  X(kUsers, 87, "EUSERS", "Too many users") \
  X(kNotsock, 88, "ENOTSOCK", "Socket operation on non-socket") \
  X(kDestaddrreq, 89, "EDESTADDRREQ", "Destination address required") \
  X(kMsgsize, 90, "EMSGSIZE", "Message too long") \
  X(kPrototype, 91, "EPROTOTYPE", "Protocol wrong type for socket") \
  X(kNoprotoopt, 92, "ENOPROTOOPT", "Protocol not available") \
  X(kProtonosupport, 93, "EPROTONOSUPPORT", "Protocol not supported") \
  X(kSocktnosupport, 94, "ESOCKTNOSUPPORT", "Socket type not supported") \
  X(kOpnotsupp, 95, "EOPNOTSUPP", "Operation not supported") \
  X(kPfnosupport, 96, "EPFNOSUPPORT", "Protocol family not supported") \
  X(kAfnosupport, 97, "EAFNOSUPPORT", "Address family not supported by protocol") \
  X(kAddrinuse, 98, "EADDRINUSE", "Address already in use") \
  X(kAddrnotavail, 99, "EADDRNOTAVAIL", "Cannot assign requested address") \
  X(kNetdown, 100, "ENETDOWN", "Network is down") \
  X(kNetunreach, 101, "ENETUNREACH", "Network is unreachable") \
  X(kNetreset, 102, "ENETRESET", "Network dropped connection on reset") \
  X(kConnaborted, 103, "ECONNABORTED", "Software caused connection abort") \
  X(kConnreset, 104, "ECONNRESET", "Connection reset by peer") \
  X(kNobufs, 105, "ENOBUFS", "No buffer space available") \
  X(kIsconn, 106, "EISCONN", "Transport endpoint is already connected") \
  X(kNotconn, 107, "ENOTCONN", "Transport endpoint is not connected") \
  X(kShutdown, 108, "ESHUTDOWN", "Cannot send after transport endpoint shutdown") \
  X(kToomanyrefs, 109, "ETOOMANYREFS", "Too many references: cannot splice") \
  X(kTimedout, 110, "ETIMEDOUT", "Connection timed out") \
  X(kConnrefused, 111, "ECONNREFUSED", "Connection refused") \
  X(kHostdown, 112, "EHOSTDOWN", "Host is down") \
  X(kHostunreach, 113, "EHOSTUNREACH", "No route to host") \
  X(kAlready, 114, "EALREADY", "Operation already in progress") \
  X(kInprogress, 115, "EINPROGRESS", "Operation now in progress") \
  X(kStale, 116, "ESTALE", "Stale file handle") \
  X(kUclean, 117, "EUCLEAN", "Structure needs cleaning") \
  X(kNotnam, 118, "ENOTNAM", "Not a XENIX named type file") \
  X(kNavail, 119, "ENAVAIL", "No XENIX semaphores available") \
  X(kIsnam, 120, "EISNAM", "Is a named type file") \
  X(kRemoteio, 121, "EREMOTEIO", "Remote I/O error") \
  X(kDquot, 122, "EDQUOT", "Disk quota exceeded") \
  X(kNomedium, 123, "ENOMEDIUM", "No medium found") \
  X(kMediumtype, 124, "EMEDIUMTYPE", "Wrong medium type") \
  X(kCanceled, 125, "ECANCELED", "Operation canceled") \
  X(kNokey, 126, "ENOKEY", "Required key not available") \
  X(kKeyexpired, 127, "EKEYEXPIRED", "Key has expired") \
  X(kKeyrevoked, 128, "EKEYREVOKED", "Key has been revoked") \
  X(kKeyrejected, 129, "EKEYREJECTED", "Key was rejected by service") \
  X(kOwnerdead, 130, "EOWNERDEAD", "Owner died") \
  X(kNotrecoverable, 131, "ENOTRECOVERABLE", "State not recoverable") \
  X(kRfkill, 132, "ERFKILL", "Operation not possible due to RF-kill")
