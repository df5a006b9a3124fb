/* The least a server can do: one epoll loop that answers every whole request with the same bytes.
 * It looks only for the blank line at the end, and counts nothing. Run as: floor PORT */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char ANSWER[] =
    "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nServer: idservice\r\n"
    "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 7\r\n"
    "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n1000000";

static void add(int poll, int descriptor) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, descriptor, &event)) exit(1);
}

int main(int count, char **arguments) {
    int one = 1, poll = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    static struct epoll_event ready[256];
    static char request[65536];
    if (count != 2) return 2;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)atoi(arguments[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
        perror("listen");
        return 1;
    }
    add(poll, listener);
    for (;;) {
        int many = epoll_wait(poll, ready, 256, -1);
        for (int i = 0; i < many; i++) {
            int from = ready[i].data.fd;
            if (from == listener) {
                from = accept(listener, NULL, NULL);
                if (from < 0) continue;
                setsockopt(from, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                add(poll, from);
                continue;
            }
            ssize_t size = recv(from, request, sizeof request, 0);
            if (size <= 0)
                close(from);
            else if (size >= 4 && !memcmp(request + size - 4, "\r\n\r\n", 4))
                if (send(from, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL) < 0) close(from);
        }
    }
}
