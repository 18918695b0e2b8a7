// System V shared memory, semaphores and message queues (svipc(7)).
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#include <initializer_list>
#include <thread>
#include <vector>

#include "guest.h"
using namespace guest;

namespace {

union Argument {
  int val;
  semid_ds* buf;
  unsigned short* array;
  seminfo* info;
};

int shm(size_t size = 8192, int mode = 0600) { return OK(shmget(IPC_PRIVATE, size, IPC_CREAT | mode)); }
int sem(int n) { return OK(semget(IPC_PRIVATE, n, IPC_CREAT | 0600)); }
int queue() { return OK(msgget(IPC_PRIVATE, IPC_CREAT | 0600)); }
shmid_ds stat_of(int id) {
  shmid_ds out;
  OK(shmctl(id, IPC_STAT, &out));
  return out;
}
int value(int id, int n = 0) { return OK(semctl(id, n, GETVAL)); }
void set_value(int id, int n, int to) { OK(semctl(id, n, SETVAL, Argument{.val = to})); }
int operate(int id, std::initializer_list<sembuf> ops) {
  std::vector<sembuf> all(ops);
  return semop(id, all.data(), all.size());
}
struct Letter {
  long type;
  char text[64];
};
int post(int id, long type, const std::string& text, int flags = 0) {
  Letter letter{type, {}};
  memcpy(letter.text, text.data(), text.size());
  return msgsnd(id, &letter, text.size(), flags);
}
std::string fetch(int id, long type = 0, int flags = IPC_NOWAIT, size_t room = sizeof(Letter::text)) {
  Letter letter{};
  ssize_t n = msgrcv(id, &letter, room, type, flags);
  if (n < 0) return show_errno(errno);
  return show(letter.type) + ":" + std::string(letter.text, static_cast<size_t>(n));
}
// A key nobody else uses.
key_t fresh_key() { return 0x5b000000 + getpid() % 0x10000; }
void nothing(int) {}

}  // namespace

TEST(sysv_shm, between_processes) {
  int id = shm();
  auto* mine = static_cast<volatile int*>(shmat(id, nullptr, 0));
  CHECK(mine != reinterpret_cast<void*>(-1));
  CHECK_EQ(mine[100], 0);
  WAIT_OK(spawn([&] {
    mine[0] = 7;  // inherited
    auto* again = static_cast<volatile int*>(shmat(id, nullptr, 0));
    again[1] = 8;
    return again[0] == 7 && again != mine ? 0 : 1;
  }));
  CHECK_EQ(mine[0], 7);
  CHECK_EQ(mine[1], 8);
  OK(shmdt(const_cast<int*>(mine)));
  FAILS(shmdt(const_cast<int*>(mine)), EINVAL);
  unsigned char there;
  FAILS(mincore(const_cast<int*>(mine), 4096, &there), ENOMEM);  // unmapped
  OK(shmctl(id, IPC_RMID, nullptr));
  FAILS(shmat(id, nullptr, 0), EINVAL);
}

TEST(sysv_shm, stat_and_count) {
  int id = shm(5000);
  shmid_ds s = stat_of(id);
  CHECK_EQ(s.shm_segsz, 5000);
  CHECK_EQ(s.shm_cpid, getpid());
  CHECK_EQ(s.shm_lpid, 0);
  CHECK_EQ(s.shm_nattch, 0);
  CHECK_EQ(s.shm_atime, 0);
  CHECK_EQ(s.shm_perm.mode, 0600);
  void* at = shmat(id, nullptr, 0);
  s = stat_of(id);
  CHECK_EQ(s.shm_nattch, 1);
  CHECK(s.shm_atime != 0);
  int ready[2], go[2];
  OK(pipe(ready));
  OK(pipe(go));
  pid_t child = spawn([&] {
    char c = 0;
    if (write(ready[1], "x", 1) != 1 || read(go[0], &c, 1) != 1) return 1;
    return 0;
  });
  char c;
  CHECK_EQ(read(ready[0], &c, 1), 1);
  CHECK_EQ(stat_of(id).shm_nattch, 2);
  CHECK_EQ(write(go[1], "x", 1), 1);
  WAIT_OK(child);
  s = stat_of(id);
  CHECK_EQ(s.shm_nattch, 1);
  CHECK_EQ(s.shm_lpid, child);
  WAIT_OK(spawn([&] {
    execl(self(), "self", "--helper", "exit", "0", nullptr);
    return 1;
  }));
  CHECK_EQ(stat_of(id).shm_nattch, 1);
  // Removed while attached: it lives on under its id, but under no key, and is not lost before the last detaches.
  OK(shmctl(id, IPC_RMID, nullptr));
  CHECK((stat_of(id).shm_perm.mode & SHM_DEST) != 0);
  void* more = shmat(id, nullptr, 0);
  CHECK(more != reinterpret_cast<void*>(-1));
  OK(shmdt(more));
  OK(shmdt(at));
  shmid_ds gone;
  FAILS(shmctl(id, IPC_STAT, &gone), EINVAL);
}

TEST(sysv_shm, where) {
  int id = shm(8192);
  auto* free = static_cast<char*>(mmap(nullptr, 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  OK(munmap(free, 65536));
  CHECK(shmat(id, free + 4096, 0) == free + 4096);
  errno = 0;
  CHECK(shmat(id, free + 4096, 0) == reinterpret_cast<void*>(-1) && errno == EINVAL);  // taken
  CHECK(shmat(id, free + 4096, SHM_REMAP) == free + 4096);
  CHECK(shmat(id, free + 4 * 4096 + 5, SHM_RND) == free + 4 * 4096);
  errno = 0;
  CHECK(shmat(id, free + 8 * 4096 + 5, 0) == reinterpret_cast<void*>(-1) && errno == EINVAL);
  errno = 0;
  CHECK(shmat(id, nullptr, SHM_REMAP) == reinterpret_cast<void*>(-1) && errno == EINVAL);
  free[4096] = 1;
  CHECK_EQ(free[4 * 4096], 1);
  FAILS(shmdt(free + 4097), EINVAL);
  FAILS(shmdt(free + 8192), EINVAL);
  OK(shmdt(free + 4096));
  OK(shmdt(free + 4 * 4096));
  CHECK_EQ(stat_of(id).shm_nattch, 0);
  OK(shmctl(id, IPC_RMID, nullptr));
}

TEST(sysv_shm, read_only) {
  int id = shm();
  auto* at = static_cast<volatile char*>(shmat(id, nullptr, SHM_RDONLY));
  CHECK_EQ(at[0], 0);
  int status = wait_status(spawn([&] {
    at[0] = 1;
    return 0;
  }));
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
  OK(shmctl(id, IPC_RMID, nullptr));
}

TEST(sysv_shm, keys_and_errors) {
  key_t key = fresh_key();
  FAILS(shmget(key, 4096, 0600), ENOENT);
  int id = OK(shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0640));
  CHECK_EQ(shmget(key, 0, 0), id);
  CHECK_EQ(shmget(key, 4096, IPC_CREAT | 0600), id);
  FAILS(shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
  FAILS(shmget(key, 4097, 0), EINVAL);
  FAILS(shmget(IPC_PRIVATE, 0, IPC_CREAT | 0600), EINVAL);
  shmid_ds s = stat_of(id);
  FAILS(shmctl(id, 99, &s), EINVAL);
  FAILS(shmctl(-1, IPC_STAT, &s), EINVAL);
  FAILS(shmctl(id, IPC_STAT, reinterpret_cast<shmid_ds*>(8)), EFAULT);
  s.shm_perm.mode = 0444;
  OK(shmctl(id, IPC_SET, &s));
  CHECK_EQ(stat_of(id).shm_perm.mode, 0444);
  WAIT_OK(spawn([&] {
    OK(setgid(1000));
    OK(setuid(1000));
    errno = 0;
    CHECK(shmat(id, nullptr, 0) == reinterpret_cast<void*>(-1) && errno == EACCES);
    CHECK(shmat(id, nullptr, SHM_RDONLY) != reinterpret_cast<void*>(-1));
    FAILS(shmget(key, 0, 0600), EACCES);
    FAILS(shmctl(id, IPC_RMID, nullptr), EPERM);
    return 0;
  }));
  OK(shmctl(id, IPC_RMID, nullptr));
  FAILS(shmget(key, 4096, 0600), ENOENT);
  CHECK(slurp("/proc/sysvipc/shm").find("shmid perms") != std::string::npos);
}

TEST(sysv_sem, operations) {
  int id = sem(3);
  CHECK_EQ(value(id), 0);
  OK(operate(id, {{0, 2, 0}, {1, 1, 0}}));
  CHECK_EQ(value(id, 0), 2);
  CHECK_EQ(semctl(id, 0, GETPID), getpid());
  CHECK_EQ(semctl(id, 2, GETPID), 0);
  // All or nothing.
  FAILS(operate(id, {{0, -1, 0}, {1, -2, IPC_NOWAIT}}), EAGAIN);
  CHECK_EQ(value(id, 0), 2);
  OK(operate(id, {{0, -2, 0}, {0, 0, 0}, {0, 3, 0}}));
  CHECK_EQ(value(id, 0), 3);
  FAILS(operate(id, {{0, 0, IPC_NOWAIT}}), EAGAIN);
  FAILS(operate(id, {{2, 0, SEM_UNDO}, {2, -1, IPC_NOWAIT}}), EAGAIN);
  FAILS(operate(id, {{3, 1, 0}}), EFBIG);
  FAILS(operate(id, {}), EINVAL);
  FAILS(operate(id, {{0, 32767, 0}}), ERANGE);
  std::vector<sembuf> many(501);
  FAILS(semop(id, many.data(), many.size()), E2BIG);
  FAILS(semop(id, reinterpret_cast<sembuf*>(8), 1), EFAULT);
  unsigned short all[3] = {5, 6, 7};
  OK(semctl(id, 0, SETALL, Argument{.array = all}));
  all[1] = 0;
  OK(semctl(id, 0, GETALL, Argument{.array = all}));
  CHECK_EQ(all[1], 6);
  FAILS(semctl(id, 0, SETVAL, Argument{.val = 32768}), ERANGE);
  FAILS(semctl(id, 3, GETVAL), EINVAL);
  semid_ds s;
  OK(semctl(id, 0, IPC_STAT, Argument{.buf = &s}));
  CHECK_EQ(s.sem_nsems, 3);
  CHECK(s.sem_otime != 0);
  OK(semctl(id, 0, IPC_RMID));
  FAILS(operate(id, {{0, 1, 0}}), EINVAL);
  FAILS(semget(IPC_PRIVATE, 0, IPC_CREAT | 0600), EINVAL);
}

TEST(sysv_sem, waiting) {
  int id = sem(2);
  pid_t down = spawn([&] { return operate(id, {{0, -2, 0}}) == 0 ? 0 : 1; });
  CHECK(eventually([&] { return semctl(id, 0, GETNCNT) == 1; }));
  OK(operate(id, {{0, 1, 0}}));
  sleep_ms(20);
  CHECK_EQ(semctl(id, 0, GETNCNT), 1);  // one is not enough
  OK(operate(id, {{0, 1, 0}}));
  WAIT_OK(down);
  CHECK_EQ(value(id), 0);
  set_value(id, 1, 1);
  pid_t zero = spawn([&] { return operate(id, {{1, 0, 0}}) == 0 ? 0 : 1; });
  CHECK(eventually([&] { return semctl(id, 1, GETZCNT) == 1; }));
  set_value(id, 1, 0);
  WAIT_OK(zero);
  // A deadline, a signal, the end of the set.
  timespec soon{0, 20'000'000}, none{0, 0}, bad{0, -1};
  sembuf op{0, -1, 0};
  int64_t before = now_ms();
  FAILS(semtimedop(id, &op, 1, &soon), EAGAIN);
  CHECK(now_ms() - before >= 19);
  FAILS(semtimedop(id, &op, 1, &none), EAGAIN);
  FAILS(semtimedop(id, &op, 1, &bad), EINVAL);
  struct sigaction action {};
  action.sa_handler = nothing;
  action.sa_flags = SA_RESTART;  // never restarted
  sigaction(SIGALRM, &action, nullptr);
  alarm(1);
  FAILS(semop(id, &op, 1), EINTR);
  pid_t waits = spawn([&] { return semop(id, &op, 1) == -1 && errno == EIDRM ? 0 : 1; });
  CHECK(eventually([&] { return semctl(id, 0, GETNCNT) == 1; }));
  OK(semctl(id, 0, IPC_RMID));
  WAIT_OK(waits);
}

TEST(sysv_sem, undo) {
  int id = sem(1);
  set_value(id, 0, 5);
  WAIT_OK(spawn([&] {
    OK(operate(id, {{0, -2, SEM_UNDO}}));
    CHECK_EQ(value(id), 3);
    return 0;
  }));
  CHECK_EQ(value(id), 5);
  int status = wait_status(spawn([&] {
    OK(operate(id, {{0, -3, SEM_UNDO}}));
    raise(SIGKILL);
    return 0;
  }));
  CHECK(WIFSIGNALED(status));
  CHECK_EQ(value(id), 5);
  // Not inherited; kept by exec; a thread is no process; SETVAL forgets.
  WAIT_OK(spawn([&] {
    OK(operate(id, {{0, -1, SEM_UNDO}}));
    WAIT_OK(spawn([] { return 0; }));
    CHECK_EQ(value(id), 4);
    std::thread([&] { OK(operate(id, {{0, -1, SEM_UNDO}})); }).join();
    CHECK_EQ(value(id), 3);
    execl(self(), "self", "--helper", "exit", "0", nullptr);
    return 1;
  }));
  CHECK_EQ(value(id), 5);
  WAIT_OK(spawn([&] {
    OK(operate(id, {{0, -1, SEM_UNDO}}));
    set_value(id, 0, 2);
    return 0;
  }));
  CHECK_EQ(value(id), 2);
  // What would go below zero stops there.
  WAIT_OK(spawn([&] {
    OK(operate(id, {{0, 3, SEM_UNDO}}));
    OK(operate(id, {{0, -4, 0}}));
    return 0;
  }));
  CHECK_EQ(value(id), 0);
  OK(semctl(id, 0, IPC_RMID));
}

TEST(sysv_sem, hand_over_between_processes) {
  int id = sem(2);
  constexpr int kRounds = 2000;
  pid_t other = spawn([&] {
    for (int i = 0; i < kRounds; i++) {
      OK(operate(id, {{0, -1, 0}}));
      OK(operate(id, {{1, 1, 0}}));
    }
    return 0;
  });
  for (int i = 0; i < kRounds; i++) {
    OK(operate(id, {{0, 1, 0}}));
    OK(operate(id, {{1, -1, 0}}));
  }
  WAIT_OK(other);
  OK(semctl(id, 0, IPC_RMID));
}

TEST(sysv_msg, order_and_types) {
  int id = queue();
  OK(post(id, 3, "three"));
  OK(post(id, 1, "one"));
  OK(post(id, 2, "two"));
  OK(post(id, 1, ""));
  msqid_ds s;
  OK(msgctl(id, IPC_STAT, &s));
  CHECK_EQ(s.msg_qnum, 4);
  CHECK_EQ(s.__msg_cbytes, 11);
  CHECK_EQ(s.msg_lspid, getpid());
  CHECK_STR(fetch(id, 2), "2:two");
  CHECK_STR(fetch(id, -2), "1:one");
  CHECK_STR(fetch(id, 3, IPC_NOWAIT | MSG_EXCEPT), "1:");
  CHECK_STR(fetch(id, -2), show_errno(ENOMSG));
  CHECK_STR(fetch(id, 0, IPC_NOWAIT, 3), show_errno(E2BIG));
  CHECK_STR(fetch(id, 0, IPC_NOWAIT | MSG_NOERROR, 3), "3:thr");
  CHECK_STR(fetch(id), show_errno(ENOMSG));
  FAILS(post(id, 0, "x"), EINVAL);
  Letter letter{1, {}};
  FAILS(msgsnd(id, &letter, 8193, 0), EINVAL);
  FAILS(msgsnd(id, reinterpret_cast<void*>(8), 1, 0), EFAULT);
  OK(msgctl(id, IPC_RMID, nullptr));
  FAILS(post(id, 1, "x"), EINVAL);
}

TEST(sysv_msg, waiting) {
  int id = queue();
  pid_t receiver = spawn([&] { return fetch(id, 5, 0) == "5:hello" ? 0 : 1; });
  sleep_ms(20);
  OK(post(id, 4, "other"));
  OK(post(id, 5, "hello"));
  WAIT_OK(receiver);
  CHECK_STR(fetch(id), "4:other");
  // Full: 16384 bytes.
  int sent = 0;
  while (post(id, 1, std::string(64, 'x'), IPC_NOWAIT) == 0) sent++;
  CHECK_EQ(errno, EAGAIN);
  CHECK_EQ(sent, 256);
  pid_t sender = spawn([&] { return post(id, 9, "late") == 0 ? 0 : 1; });
  sleep_ms(20);
  CHECK_STR(fetch(id, 9), show_errno(ENOMSG));
  CHECK_STR(fetch(id), "1:" + std::string(64, 'x'));
  WAIT_OK(sender);
  CHECK_STR(fetch(id, 9), "9:late");
  msqid_ds s;
  OK(msgctl(id, IPC_STAT, &s));
  s.msg_qbytes = 100;
  OK(msgctl(id, IPC_SET, &s));
  while (fetch(id) != show_errno(ENOMSG)) {
  }
  OK(post(id, 1, std::string(60, 'x'), IPC_NOWAIT));
  FAILS(post(id, 1, std::string(60, 'x'), IPC_NOWAIT), EAGAIN);
  CHECK(fetch(id)[0] == '1');
  pid_t waits = spawn([&] { return fetch(id, 0, 0) == show_errno(EIDRM) ? 0 : 1; });
  sleep_ms(50);
  OK(msgctl(id, IPC_RMID, nullptr));
  WAIT_OK(waits);
}

TEST(sysv_msg, keys) {
  key_t key = fresh_key();
  int id = OK(msgget(key, IPC_CREAT | 0600));
  CHECK_EQ(msgget(key, 0), id);
  FAILS(msgget(key, IPC_CREAT | IPC_EXCL), EEXIST);
  WAIT_OK(spawn([&] {
    OK(setuid(1000));
    FAILS(msgget(key, 0400), EACCES);
    FAILS(post(id, 1, "x"), EACCES);
    FAILS(msgctl(id, IPC_RMID, nullptr), EPERM);
    return 0;
  }));
  OK(msgctl(id, IPC_RMID, nullptr));
  // Ids are not given again at once.
  int next = OK(msgget(key, IPC_CREAT | 0600));
  CHECK(next != id);
  OK(msgctl(next, IPC_RMID, nullptr));
}
