/* Finds the broker: where its socket is, whose it is, and starts one where none listens. */
#ifndef P11HOST_BROKER_H
#define P11HOST_BROKER_H

/*
 * A new door to the broker, close-on-exec, or a negative errno: -EPERM when the socket is somebody else's, -ECONNREFUSED
 * or -ENOENT when there is no broker and none could be started in time. The log says more.
 */
int broker_connect(void);

#endif
