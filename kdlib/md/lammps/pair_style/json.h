// JSON as config.json and the header of a safetensors file use it: a reader, nothing else.

#ifndef KDLIB_JSON_H
#define KDLIB_JSON_H

#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace kdlib {

struct Json {
  enum Kind { Null, Boolean, Number, String, Array, Object } kind = Null;
  bool boolean = false;
  double number = 0.0;
  std::string string;
  std::vector<Json> array;
  std::map<std::string, Json> object;

  const Json *find(const std::string &key) const
  {
    const auto found = object.find(key);
    return found == object.end() ? nullptr : &found->second;
  }

  const Json &at(const std::string &key) const
  {
    if (const Json *found = find(key)) return *found;
    throw std::runtime_error("'" + key + "' is missing");
  }

  // True and false count as 1 and 0, as in Python.
  double as_number(const std::string &what) const
  {
    if (kind == Boolean) return boolean ? 1.0 : 0.0;
    if (kind != Number) throw std::runtime_error("'" + what + "' is not a number");
    return number;
  }

  // A count or an offset; far below 2^53, where numbers are no longer whole.
  size_t as_count(const std::string &what) const
  {
    const double value = as_number(what);
    if (!(value >= 0.0 && value < 1e15) || value != (double) (size_t) value)
      throw std::runtime_error("'" + what + "' is not a whole number");
    return (size_t) value;
  }
};

class JsonReader {
 public:
  explicit JsonReader(const std::string &text) : here(text.data()), end(here + text.size()) {}

  Json read()
  {
    Json whole = value(0);
    skip_space();
    if (here != end) fail();
    return whole;
  }

 private:
  static constexpr int DEEPEST = 64;
  const char *here, *end;

  [[noreturn]] static void fail() { throw std::runtime_error("it is not JSON"); }

  void skip_space()
  {
    while (here != end && (*here == ' ' || *here == '\n' || *here == '\t' || *here == '\r')) ++here;
  }

  char next()
  {
    if (here == end) fail();
    return *here++;
  }

  bool take(char wanted)
  {
    skip_space();
    if (here == end || *here != wanted) return false;
    ++here;
    return true;
  }

  void expect(const char *word)
  {
    for (; *word; ++word)
      if (next() != *word) fail();
  }

  Json value(int depth)
  {
    skip_space();
    if (here == end || depth > DEEPEST) fail();
    Json made;
    switch (*here) {
      case '{': made.kind = Json::Object; read_object(made, depth); break;
      case '[': made.kind = Json::Array; read_array(made, depth); break;
      case '"': made.kind = Json::String; made.string = text(); break;
      case 't': made.kind = Json::Boolean; made.boolean = true; expect("true"); break;
      case 'f': made.kind = Json::Boolean; expect("false"); break;
      case 'n': expect("null"); break;
      default: made.kind = Json::Number; made.number = read_number();
    }
    return made;
  }

  void read_object(Json &made, int depth)
  {
    ++here;
    if (take('}')) return;
    do {
      skip_space();
      if (here == end || *here != '"') fail();
      const std::string key = text();
      if (!take(':')) fail();
      made.object[key] = value(depth + 1);
    } while (take(','));
    if (!take('}')) fail();
  }

  void read_array(Json &made, int depth)
  {
    ++here;
    if (take(']')) return;
    do made.array.push_back(value(depth + 1));
    while (take(','));
    if (!take(']')) fail();
  }

  std::string text()
  {
    std::string made;
    ++here;
    for (char c = next(); c != '"'; c = next()) {
      if (c != '\\') { made += c; continue; }
      c = next();
      if (c == 'u') {    // names that matter are ASCII; any other letter becomes a question mark
        for (int k = 0; k < 4; ++k) next();
        c = '?';
      }
      made += c == 'n' ? '\n' : c == 't' ? '\t' : c;
    }
    return made;
  }

  // Python also writes NaN and Infinity.
  double read_number()
  {
    static const std::string SIGNS = "+-.eE0123456789NaInfity";
    std::string digits;
    while (here != end && SIGNS.find(*here) != std::string::npos) digits += *here++;
    char *stop = nullptr;
    const double found = std::strtod(digits.c_str(), &stop);
    if (digits.empty() || *stop) fail();
    return found;
  }
};

}    // namespace kdlib

#endif
