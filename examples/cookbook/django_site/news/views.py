"""The views of the site, and their URLs."""

from django.core.cache import cache
from django.http import Http404, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.cache import cache_page
from django.views.decorators.csrf import csrf_exempt

from .models import Article, article_key


@cache_page(30)
def front_page(request):
    """The whole page is cached for 30 seconds, with its headers."""
    titles = "".join(f"<li>{article.title}</li>" for article in Article.objects.all())
    return HttpResponse(f"<ul>{titles}</ul>")


def load(number):
    return Article.objects.filter(pk=number).values("title", "text").first()


def article(request, number):
    """The session counts what its owner reads; the article is one item for all of them."""
    found = cache.get_or_set(article_key(number), lambda: load(number), timeout=600)
    if found is None:
        raise Http404
    request.session["read"] = request.session.get("read", 0) + 1
    return JsonResponse({**found, "read": request.session["read"]})


async def article_async(request, number):
    """The same under ASGI: the async methods use the running loop, and no thread."""
    found = await cache.aget(article_key(number))
    if found is None:
        found = await Article.objects.filter(pk=number).values("title", "text").afirst()
        await cache.aset(article_key(number), found, timeout=600)
    return JsonResponse(found or {}, status=200 if found else 404)


@csrf_exempt
def write(request):
    created = Article.objects.create(title=request.POST["title"], text=request.POST["text"])
    return JsonResponse({"id": created.pk}, status=201)


@csrf_exempt
def edit(request, number):
    Article.objects.update_or_create(
        pk=number, defaults={name: request.POST[name] for name in ("title", "text")}
    )
    return JsonResponse({"id": number})


urlpatterns = [
    path("", front_page),
    path("articles/", write),
    path("articles/<int:number>", article),
    path("articles/<int:number>/async", article_async),
    path("articles/<int:number>/edit", edit),
]
