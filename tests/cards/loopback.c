/* Loaded into pcscd before the reader's driver, which would listen on every interface: on loopback alone. */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

int bind(int socket, const struct sockaddr *address, socklen_t length);

int bind(int socket, const struct sockaddr *address, socklen_t length) {
        int (*real)(int, const struct sockaddr *, socklen_t);
        struct sockaddr_in local;
        void *found = dlsym(RTLD_NEXT, "bind");

        memcpy(&real, &found, sizeof(real));
        if (address->sa_family != AF_INET || length < sizeof(local))
                return real(socket, address, length);
        memcpy(&local, address, sizeof(local));
        local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return real(socket, (const struct sockaddr *)&local, sizeof(local));
}
