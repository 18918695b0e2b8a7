// Sending and receiving on AF_UNIX sockets.
#include <algorithm>

#include "sentry/net/unix_host.h"
#include "sentry/net/unix_socket.h"

namespace sbx::net {
namespace {

constexpr size_t kStreamPiece = 65536;     // one message of a stream holds at most so much
constexpr size_t kSmallestPiece = 512;     // room for later small writes to join
constexpr size_t kMaxQueuedPackets = 512;  // net.unix.max_dgram_qlen

constexpr Identity kUnknown = {0, 65534, 65534};  // the overflow ids

// Linux notes who sends only if one of the two ends asks for it, or the other is not accepted yet (maybe_add_creds).
Identity sender_identity(const SendRequest& request, bool wanted) {
  if (request.credentials) return *request.credentials;
  if (!wanted) return kUnknown;
  return caller_identity != nullptr ? caller_identity() : Identity{0, 0, 0};
}

// Puts n bytes of a message into the sink; the count that went, or kFault.
Result<size_t> put(vfs::Sink& sink, const u8* from, size_t n) {
  if (n == 0) return size_t{0};
  return sink.put(from, n);
}

}  // namespace

Result<size_t> UnixSocket::send(const vfs::WalkContext* ctx, SendRequest& request) {
  if (host_) return host_->send(request);
  if (request.flags & MSG_OOB) return Errno::kOpnotsupp;
  if (error_ != Errno::kNone) return take_error();
  if (files_in_flight + request.files.size() > kMaxFilesInFlight) return Errno::kToomanyrefs;
  if (type() == SOCK_STREAM) {
    if (!request.address.empty()) return state_ == State::kConnected ? Errno::kIsconn : Errno::kOpnotsupp;
    return send_stream(request);
  }
  if (type() == SOCK_SEQPACKET) {
    if (state_ != State::kConnected) return Errno::kNotconn;
    if ((shut_ & kNoSend) || peer_ == nullptr || (peer_->shut_ & kNoReceive)) return Errno::kPipe;
    return send_packet(*peer_, request);
  }
  if (shut_ & kNoSend) return Errno::kPipe;
  if (request.address.empty()) {
    if (peer_ == nullptr)
      return std::exchange(state_, State::kFresh) == State::kConnected ? Errno::kConnrefused : Errno::kNotconn;
    if (peer_->shut_ & kNoReceive) return Errno::kPipe;
    return send_packet(*peer_, request);
  }
  if (ctx == nullptr) return Errno::kInval;
  UnixSocket* to = TRY(find(*ctx, request.address));
  if (to->peer_ != nullptr && to->peer_ != this) return Errno::kPerm;
  if (to->shut_ & kNoReceive) return Errno::kPipe;
  return send_packet(*to, request);
}

Result<size_t> UnixSocket::send_packet(UnixSocket& to, SendRequest& request) {
  size_t n = request.data.left();
  if (n + 32 > send_buffer_) return Errno::kMsgsize;
  bool crowded = to.inbox_.size() >= kMaxQueuedPackets || (!to.inbox_.empty() && to.room_for(send_buffer_) < n);
  if (crowded) {
    wait_for_room(to);
    return Errno::kAgain;
  }
  Message message;
  message.bytes = std::make_unique_for_overwrite<u8[]>(n);
  message.room = message.length = n;
  if (n > 0) {
    size_t got = TRY(request.data.get(message.bytes.get(), n));
    if (got < n) return Errno::kFault;
  }
  message.sender = name_;
  message.files = std::move(request.files);
  files_in_flight += message.files.size();
  message.identity = sender_identity(request, pass_credentials_ || to.pass_credentials_ || !to.accepted_);
  to.inbox_charge_ += message.charge();
  to.inbox_bytes_ += n;
  to.inbox_.push_back(std::move(message));
  to.queue_.wake_all();
  return n;
}

Result<size_t> UnixSocket::send_stream(SendRequest& request) {
  if (state_ != State::kConnected) return Errno::kNotconn;
  if ((shut_ & kNoSend) || peer_ == nullptr || (peer_->shut_ & kNoReceive)) return Errno::kPipe;
  UnixSocket& to = *peer_;
  to.settle();
  // What is free is ours, not of somebody who may write to it by himself.
  if (to.lent_.claim() > 0 && to.room_for(send_buffer_) < request.data.left() + 2 * kMessageOverhead + to.lent_.claim())
    to.end_lent();
  Identity from = sender_identity(request, pass_credentials_ || to.pass_credentials_ || !to.accepted_);
  const size_t done = TRY(to.append(request.data, request.files, from, send_buffer_));
  if (request.data.left() > 0) wait_for_room(to);
  if (done == 0 && request.data.left() > 0) return Errno::kAgain;
  to.queue_.wake_all();
  return done;
}

// Bytes of a stream into the inbox, as many as there is room for; `files` with the first of them.
Result<size_t> UnixSocket::append(vfs::Source& data, std::vector<RefPtr<vfs::File>>& files, const Identity& from,
                                  size_t send_buffer) {
  size_t done = 0;
  while (data.left() > 0) {
    size_t room = room_for(send_buffer);
    if (room <= kMessageOverhead) break;
    Message* last = inbox_.empty() ? nullptr : &inbox_.back();
    bool joins =
        last != nullptr && files.empty() && last->files.empty() && last->identity == from && last->room > last->length;
    size_t piece = std::min(data.left(), kStreamPiece);
    if (joins) {
      piece = std::min(piece, last->room - last->length);
    } else {
      piece = std::min(piece, room - kMessageOverhead);
      Message fresh;
      fresh.room = std::max(piece, kSmallestPiece);
      fresh.bytes = std::make_unique_for_overwrite<u8[]>(fresh.room);
      fresh.identity = from;
      inbox_charge_ += fresh.charge();
      inbox_.push_back(std::move(fresh));
      last = &inbox_.back();
    }
    auto got = data.get(last->bytes.get() + last->length, piece);
    size_t moved = got ? *got : 0;
    last->length += moved;
    inbox_bytes_ += moved;
    done += moved;
    if (last->left() == 0) {
      inbox_charge_ -= last->charge();
      inbox_.pop_back();
    } else if (!files.empty()) {
      files_in_flight += files.size();
      last->files = std::move(files);
      files.clear();
    }
    if (moved < piece) {
      if (done == 0) return got ? Errno::kFault : got.error();
      break;
    }
  }
  return done;
}

Result<size_t> UnixSocket::nothing_to_receive() {
  if (error_ != Errno::kNone) return take_error();
  if (shut_ & kNoReceive) return size_t{0};
  if (type() == SOCK_STREAM && state_ != State::kConnected) return Errno::kInval;
  if (type() == SOCK_SEQPACKET && state_ != State::kConnected) return Errno::kNotconn;
  return Errno::kAgain;
}

void UnixSocket::pop_message() {
  inbox_charge_ -= inbox_.front().charge();
  inbox_bytes_ -= inbox_.front().left();
  files_in_flight -= inbox_.front().files.size();
  inbox_.pop_front();
}

// Of the first message, or of as many as have no files.
void UnixSocket::consume(size_t n) {
  while (n > 0 && !inbox_.empty()) {
    Message& message = inbox_.front();
    const size_t part = std::min(n, message.left());
    message.read += part;
    inbox_bytes_ -= part;
    n -= part;
    if (message.left() == 0) pop_message();
  }
}

Result<size_t> UnixSocket::receive(ReceiveRequest& request) {
  if (host_) return host_->receive(request);
  if (request.flags & MSG_OOB) return type() == SOCK_STREAM ? Errno::kInval : Errno::kOpnotsupp;
  settle();
  if (inbox_.empty()) return nothing_to_receive();
  auto result = type() == SOCK_STREAM ? receive_stream(request) : receive_packet(request);
  // Writers are let in again when a good part is free, not for each byte.
  if (!senders_.empty() && (inbox_.empty() || inbox_charge_ * 4 <= senders_.front()->send_buffer_)) drained();
  return result;
}

Result<size_t> UnixSocket::receive_packet(ReceiveRequest& request) {
  Message& message = inbox_.front();
  size_t n = std::min(message.length, request.data.left());
  bool peek = request.flags & MSG_PEEK;
  auto moved = put(request.data, message.bytes.get(), n);
  if (!moved) {
    // A datagram whose reader faults is gone, as in Linux.
    if (!peek) pop_message();
    return moved;
  }
  size_t whole = message.length;
  if (n < whole) request.out_flags |= MSG_TRUNC;
  request.address = message.sender;
  if (pass_credentials_) request.credentials = message.identity;
  if (peek) {
    request.files = message.files;
  } else {
    files_in_flight -= message.files.size();
    request.files = std::exchange(message.files, {});
    pop_message();
  }
  return request.flags & MSG_TRUNC ? whole : *moved;
}

Result<size_t> UnixSocket::receive_stream(ReceiveRequest& request) {
  bool peek = request.flags & MSG_PEEK;
  size_t done = 0, peeked = 0;
  bool first = true;
  // A blocking call waits for what SO_RCVLOWAT asks for, unless nothing more can come.
  const bool waits =
      !nonblocking() && !(request.flags & MSG_DONTWAIT) && !(shut_ & kNoReceive) && error_ == Errno::kNone;
  const size_t least = std::min(static_cast<size_t>(receive_least_), request.data.left());
  if (waits && inbox_bytes_ < least) return Errno::kAgain;
  if (request.data.left() == 0) {  // the first message's credentials and descriptors come all the same
    Message& message = inbox_.front();
    if (pass_credentials_) request.credentials = message.identity;
    request.files = message.files;
    if (!peek) {
      files_in_flight -= message.files.size();
      message.files.clear();
    }
    return size_t{0};
  }
  while (request.data.left() > 0 && peeked < inbox_.size()) {
    Message& message = inbox_[peeked];
    // One call never mixes senders that can be told apart, and stops after a message with descriptors.
    if (!first && pass_credentials_ && !(message.identity == *request.credentials)) break;
    if (pass_credentials_) request.credentials = message.identity;
    size_t n = std::min(message.left(), request.data.left());
    auto moved = put(request.data, message.bytes.get() + message.read, n);
    if (!moved) {
      if (done == 0) return moved;
      break;
    }
    done += *moved;
    first = false;
    bool had_files = !message.files.empty();
    if (peek) {
      request.files.insert(request.files.end(), message.files.begin(), message.files.end());
      ++peeked;
    } else {
      files_in_flight -= message.files.size();
      for (auto& file : message.files) request.files.push_back(std::move(file));
      message.files.clear();
      consume(*moved);
    }
    if (*moved < n || had_files) break;
  }
  request.address = peer_ != nullptr ? peer_->name_ : peer_name_;
  return done;
}

// ---- with processes (platform/stream_lease.h) ----

void UnixSocket::settle_lent() {
  if (const size_t taken = lent_.take_back(); taken > 0) consume(taken);
  const size_t send_buffer = peer_ != nullptr ? peer_->send_buffer_ : send_buffer_;
  const bool news = lent_.collect([&](const u8* bytes, size_t n) {
    vfs::KernelSource source(bytes, n);
    std::vector<RefPtr<vfs::File>> none;
    // There was room when they were written: they count, but none is refused.
    auto added = append(source, none, kUnknown, SIZE_MAX);
    return added && *added == n;
  });
  if (news && !queue_.empty()) queue_.wake_all();
  const size_t room = room_for(send_buffer);
  lent_.allow(room > 2 * kMessageOverhead ? room - 2 * kMessageOverhead : 0);
}

void UnixSocket::end_lent() {
  lent_.end();
  settle();
}

// Who joins is to hear of what comes, and of room in the other's inbox.
fiber::WaitQueue* UnixSocket::wait_queue() {
  lent_.await();
  settle_readiness();
  return &queue_;
}

void UnixSocket::set_flags(u32 flags) {
  end_lent();
  if (peer_ != nullptr) peer_->end_lent();
  Socket::set_flags(flags);
}

platform::LentStream* UnixSocket::lent_reads() {
  if (type() != SOCK_STREAM || state_ != State::kConnected || host_) return nullptr;
  // Who waits for room would have to hear of what is taken.
  const bool plain = senders_.empty() && !pass_credentials_ && receive_least_ == 1;
  return plain ? &lent_ : nullptr;
}

size_t UnixSocket::bytes_left() {
  settle();
  return inbox_bytes_;
}

platform::LentStream* UnixSocket::lent_writes() {
  if (type() != SOCK_STREAM || state_ != State::kConnected || host_ || peer_ == nullptr) return nullptr;
  UnixSocket& to = *peer_;
  const bool unsaid = !pass_credentials_ && !to.pass_credentials_ && to.accepted_ && accepted_;
  const bool open = error_ == Errno::kNone && (shut_ & kNoSend) == 0 && (to.shut_ & kNoReceive) == 0;
  return unsaid && open ? &to.lent_ : nullptr;
}

size_t UnixSocket::peek_bytes(u8* to, size_t most) {
  settle();
  size_t done = 0;
  for (const Message& message : inbox_) {
    if (!message.files.empty() || done == most) break;
    const size_t n = std::min(message.left(), most - done);
    std::memcpy(to + done, message.bytes.get() + message.read, n);
    done += n;
  }
  return done;
}

void UnixSocket::room_lent(RefPtr<platform::WriteRing> ring) {
  peer_->lent_.room_lent(std::move(ring));
  if (!peer_->queue_.empty()) peer_->lent_.await();
  peer_->settle();
}

}  // namespace sbx::net
