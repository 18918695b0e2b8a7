// POSIX message queues: mq_overview(7), mq_open(3), mq_send(3), mq_receive(3), mq_notify(3), mq_getattr(3).
#include <mqueue.h>
#include <poll.h>

#include <thread>

#include "guest.h"

using namespace guest;

namespace {

std::string own_name() { return "/guest-test-" + std::to_string(getpid()); }

struct Queue {
  std::string name = own_name();
  mqd_t fd;
  explicit Queue(long messages = 3, long size = 16, int flags = 0) {
    mq_attr attr{};
    attr.mq_maxmsg = messages;
    attr.mq_msgsize = size;
    fd = OK(mq_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | flags, 0600, &attr));
  }
  ~Queue() { mq_unlink(name.c_str()); }
};

volatile sig_atomic_t told, told_code, told_value;
void on_message(int, siginfo_t* info, void*) {
  told = told + 1;
  told_code = info->si_code;
  told_value = info->si_value.sival_int;
}

}  // namespace

TEST(mqueue, priorities_and_order) {
  Queue q(4);
  OK(mq_send(q.fd, "low", 3, 1));
  OK(mq_send(q.fd, "first", 5, 7));
  OK(mq_send(q.fd, "second", 6, 7));
  OK(mq_send(q.fd, "", 0, 0));
  mq_attr attr{};
  OK(mq_getattr(q.fd, &attr));
  CHECK_EQ(attr.mq_maxmsg, 4);
  CHECK_EQ(attr.mq_msgsize, 16);
  CHECK_EQ(attr.mq_curmsgs, 4);
  char text[16];
  unsigned priority = 0;
  for (const char* wanted : {"first", "second", "low", ""}) {
    ssize_t n = OK(mq_receive(q.fd, text, sizeof text, &priority));
    CHECK_STR(std::string(text, (size_t)n), wanted);
  }
  CHECK_EQ(priority, 0);
}

TEST(mqueue, errors) {
  Queue q(1, 8);
  char text[8];
  FAILS(mq_open(q.name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600, nullptr), EEXIST);
  FAILS(mq_open("/guest-test-absent", O_RDWR), ENOENT);
  FAILS(mq_unlink("/guest-test-absent"), ENOENT);
  FAILS(mq_send(q.fd, "too long!", 9, 0), EMSGSIZE);
  FAILS(mq_send(q.fd, "x", 1, 32768), EINVAL);
  FAILS(mq_receive(q.fd, text, 7, nullptr), EMSGSIZE);
  mq_attr attr{};
  attr.mq_maxmsg = 0;
  attr.mq_msgsize = 8;
  FAILS(mq_open("/guest-test-bad", O_RDWR | O_CREAT, 0600, &attr), EINVAL);
  mqd_t reader = OK(mq_open(q.name.c_str(), O_RDONLY | O_NONBLOCK)),
        writer = OK(mq_open(q.name.c_str(), O_WRONLY | O_NONBLOCK));
  FAILS(mq_receive(reader, text, 8, nullptr), EAGAIN);
  FAILS(mq_send(reader, "x", 1, 0), EBADF);
  OK(mq_send(writer, "x", 1, 0));
  FAILS(mq_send(writer, "x", 1, 0), EAGAIN);
  FAILS(mq_receive(writer, text, 8, nullptr), EBADF);
  FAILS(mq_getattr(0, &attr), EBADF);
  OK(mq_unlink(q.name.c_str()));
  CHECK_EQ(OK(mq_receive(reader, text, 8, nullptr)), 1);  // lives on without its name
  FAILS(mq_open(q.name.c_str(), O_RDWR), ENOENT);
}

TEST(mqueue, waits) {
  Queue q(1);
  char text[16];
  timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  FAILS(mq_timedreceive(q.fd, text, sizeof text, nullptr, &at), ETIMEDOUT);
  std::thread sender([&] {
    sleep_ms(20);
    for (int i = 0; i < 50; i++) OK(mq_send(q.fd, "m", 1, 0));
  });
  for (int i = 0; i < 50; i++) CHECK_EQ(OK(mq_receive(q.fd, text, sizeof text, nullptr)), 1);
  sender.join();
  pollfd p{q.fd, POLLIN | POLLOUT, 0};
  CHECK_EQ(OK(poll(&p, 1, 0)), 1);
  CHECK_EQ(p.revents, POLLOUT);
  pid_t child = spawn([&] { return mq_send(q.fd, "c", 1, 3) == 0 ? 0 : 1; });
  p.events = POLLIN;
  CHECK_EQ(OK(poll(&p, 1, 5000)), 1);
  WAIT_OK(child);
  mq_attr attr{}, old{};
  attr.mq_flags = O_NONBLOCK;
  OK(mq_setattr(q.fd, &attr, &old));
  CHECK_EQ(old.mq_flags, 0);
  CHECK_EQ(old.mq_curmsgs, 1);
  OK(mq_receive(q.fd, text, sizeof text, nullptr));
  FAILS(mq_receive(q.fd, text, sizeof text, nullptr), EAGAIN);
}

TEST(mqueue, notification) {
  struct sigaction action {};
  action.sa_sigaction = on_message;
  action.sa_flags = SA_SIGINFO;
  OK(sigaction(SIGUSR1, &action, nullptr));
  Queue q;
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGUSR1;
  event.sigev_value.sival_int = 42;
  OK(mq_notify(q.fd, &event));
  WAIT_OK(spawn([&] {
    FAILS(mq_notify(q.fd, &event), EBUSY);
    return 0;
  }));
  OK(mq_send(q.fd, "a", 1, 0));
  CHECK(eventually([] { return told == 1; }));
  CHECK_EQ(told_code, SI_MESGQ);
  CHECK_EQ(told_value, 42);
  OK(mq_send(q.fd, "b", 1, 0));  // told once
  char text[16];
  OK(mq_receive(q.fd, text, sizeof text, nullptr));
  OK(mq_receive(q.fd, text, sizeof text, nullptr));
  OK(mq_notify(q.fd, &event));
  OK(mq_notify(q.fd, nullptr));
  OK(mq_send(q.fd, "c", 1, 0));
  sleep_ms(20);
  CHECK_EQ(told, 1);
}
