/*
 * What the configuration says of a module, as the offer of a helper brings it: deadlines, rows, after what a helper is of no more use.
 *
 * For module.c; module_is_broken is here, too.
 */
#ifndef P11HOST_MODULE_SETTINGS_H
#define P11HOST_MODULE_SETTINGS_H

#include "module.h"

/* Takes over the rows. */
void module_take_settings(struct module *module, const struct offer *offer);
void module_free_rows(struct module *module);

#endif
