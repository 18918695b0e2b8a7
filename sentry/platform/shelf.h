// The shelf: descriptors of files that most processes map (the dynamic loader, the C library, the loader's cache, texts
// patched ahead). The template has them from kShelfBase on, and whatever is forked from it inherits them: a mapping of
// such a file then needs no descriptor put into the stub, which costs two switches each.
//
// What is on it any stub of the sandbox may map, whoever its guest process is. So only files are that everybody in the
// sandbox may read, by their mode and those of the directories above, while there is one tree of files only; and a file
// goes when it is removed, first opened for writing, or modes and mounts change. Processes that have it keep it until
// they end or execute something, as a descriptor kept open would. Kernel lock for everything.
#pragma once
#include <array>
#include <functional>
#include <vector>

#include "sentry/base/ref.h"
#include "sentry/base/types.h"
#include "sentry/base/unique_fd.h"
#include "sentry/platform/layout.h"

namespace sbx::platform {

// One file, or one copy of a text. It is the owner's to say what becomes of the file.
struct ShelfItem final : public RefCounted {
  bool gone = false;  // not to be used any more
  i32 uses = 0;       // mappings for which it was not there
  int place = -1;
  u32 serial = 0;  // of what lies at the place
  u64 used_at = 0;
};

// Whether everybody in the sandbox may read a file, as of now.
using Everybodys = std::function<bool()>;

class Shelf {
 public:
  // What a stub has at each place, by serials; 0: nothing. A forked process has its parent's.
  using View = std::array<u32, kShelfPlaces>;

  // The number in the stub's table; -1: it has none.
  int find(const View& view, ShelfItem* item);
  // `fd` had to be put into a stub: after a few times it gets a place, if everybody may read it.
  void want(const RefPtr<ShelfItem>& item, int fd, const Everybodys& everybodys);
  // The template waits: put(fd, number) puts a descriptor of ours at a number of its table, and answers below 0 if it
  // cannot.
  // False: it still has what nobody is to inherit; make no stub then.
  bool stock(const std::function<int(int fd, int number)>& put);
  // Takes down what may not be there any more; the template has it until stock().
  void settle();
  // Whether all that a stub has by that view may still be inherited.
  bool holds(const View& view) const;
  // What a stub forked from the template now has.
  const View& view() const { return view_; }
  // Modes or places of directories changed: before the next stub is made all are asked for again.
  void check_again() { check_again_ = true; }
  // For good.
  void close();

 private:
  struct Wanted {
    RefPtr<ShelfItem> item;
    UniqueFd fd;
    Everybodys everybodys;
  };
  struct Place {
    RefPtr<ShelfItem> item;
    Everybodys everybodys;
    bool stale = false;  // empty, but the template still has a descriptor that nobody shall inherit
  };
  int free_place() const;
  void take_down(size_t place);

  std::array<Place, kShelfPlaces> places_;
  View view_{};
  std::vector<Wanted> wanted_;
  UniqueFd nothing_;  // an empty file, for places that are to be empty
  u32 serials_ = 0;
  u64 clock_ = 0;
  bool check_again_ = false;
  bool closed_ = false;
};

}  // namespace sbx::platform
