#pragma once
typedef enum { T_NUM, T_NAME, T_OP, T_END } Kind;
typedef struct {
  Kind kind;
  double number;
  char name[16];
  char op;
} Token;
typedef struct {
  const char* at;
  Token now;
  const char* error;
} Lexer;
void lexer_start(Lexer* l, const char* text);
void lexer_next(Lexer* l);
double parse(Lexer* l);
int call(const char* name, double a, double b, double* out);
double power(double base, double exponent);
void report(const char* text, double value, const char* error);
