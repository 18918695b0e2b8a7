#include "oci/daemon_json.h"

#include <nlohmann/json.hpp>

namespace sbx::oci {
namespace {

using Json = nlohmann::ordered_json;

HostResult<Json> parse(const std::string& text, const std::string& file) {
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) return Json::object();
  Json document = Json::parse(text, nullptr, false);
  if (document.is_discarded()) return Failure(file + " is not JSON: left as it is");
  if (!document.is_object()) return Failure(file + " is no JSON object: left as it is");
  auto runtimes = document.find("runtimes");
  if (runtimes != document.end() && !runtimes->is_object()) return Failure(file + ": \"runtimes\" is no object");
  return document;
}

std::string write(const Json& document) { return document.dump(2) + "\n"; }

}  // namespace

HostResult<std::string> add_docker_runtime(const std::string& text, const std::string& file, const std::string& name,
                                           const std::string& path, const std::vector<std::string>& args) {
  if (name.empty() || name == "runc") return Failure("--name: \"" + name + "\" is not for us");
  Json document = TRY(parse(text, file));
  Json entry = {{"path", path}};
  if (!args.empty()) entry["runtimeArgs"] = args;
  Json& runtimes = document["runtimes"];
  if (runtimes.is_object() && runtimes.contains(name) && runtimes[name] == entry) return text;
  runtimes[name] = entry;
  return write(document);
}

HostResult<std::string> remove_docker_runtime(const std::string& text, const std::string& file,
                                              const std::string& name) {
  Json document = TRY(parse(text, file));
  auto runtimes = document.find("runtimes");
  if (runtimes == document.end() || runtimes->erase(name) == 0) return text;
  if (runtimes->empty()) document.erase("runtimes");
  if (auto chosen = document.find("default-runtime"); chosen != document.end() && *chosen == name) {
    document.erase("default-runtime");
  }
  return write(document);
}

}  // namespace sbx::oci
