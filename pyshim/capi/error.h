#ifndef SWG_ERROR_H
#define SWG_ERROR_H
void swg_set_error(const char *message);
#endif
